"""Tells the C library to keep memory that a training step has freed."""
import ctypes

# mallopt's parameters (malloc.h) and their values in bytes, C ints. GIVE_BACK has the values that glibc reaches by
# itself in a process like ours; KEEP has values that keep a step's activations.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
GIVE_BACK = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
KEEP = {MMAP_THRESHOLD: 2**30, TRIM_THRESHOLD: 2**31 - 1}


def keep_freed_memory(keep=True):
    """Keeps freed memory, up to 2 GB, for the next step instead of returning it to the system.

    Every step on the CPU allocates the same activations. If their memory is returned in between, the kernel allocates
    and zeroes every page again, which is a tenth of CRD's time. Without glibc's mallopt it does nothing.

    keep: False restores glibc's own values.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    for parameter, value in (KEEP if keep else GIVE_BACK).items():
        if not mallopt(parameter, value):  # glibc before 2.35 takes 32 MB at most
            mallopt(parameter, GIVE_BACK[parameter])
