"""What the C library does with memory that a step of training has freed."""
import ctypes

# mallopt's parameters (malloc.h) and their values: what glibc settles on by itself in a process like ours, and what
# keeps a step's activations. All are ints of C.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
GIVE_BACK = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
KEEP = {MMAP_THRESHOLD: 2**30, TRIM_THRESHOLD: 2**31 - 1}


def keep_freed_memory(keep=True):
    """Keep freed memory for the next step, up to 2 GB, instead of giving it back to the system.

    Every step on the CPU allocates the same activations. Given back in between, each of their pages is asked for anew
    and zeroed by the kernel: a tenth of CRD's time. Does nothing where the C library is not glibc, which has this call.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    for parameter, value in (KEEP if keep else GIVE_BACK).items():
        if not mallopt(parameter, value):  # glibc before 2.35 takes 32 MB at most
            mallopt(parameter, GIVE_BACK[parameter])
