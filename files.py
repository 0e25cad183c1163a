"""Files that survive a kill, and locks between processes."""
import contextlib
import glob
import os
import re
import uuid

from filelock import FileLock, Timeout

__all__ = ["Timeout", "lock", "remove_abandoned", "write_text", "writing"]


@contextlib.contextmanager
def writing(path):
    """A binary file that appears under `path` only when it is complete and on the disk, not at all if writing fails.

    Whoever reads `path`, at any moment and after any crash, finds the old file or the new one, never half of one. Two
    processes may write one path at once: each has its own temporary file, and the last rename wins.
    Raises OSError where the folder cannot be written.
    """
    path = os.fspath(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # gone already after the rename


def write_text(path, text):
    """Replace the file `path` by `text`, atomically (see `writing`)."""
    with writing(path) as file:
        file.write(text.encode())


def lock(path, timeout=-1):
    """A context manager that holds the lock `path`, a file made for it, until its end or the end of the process.

    timeout: seconds to wait for another process: -1 for ever, 0 not at all.
    Raises Timeout when it was not to be had in time, OSError where no file can be made.
    """
    return FileLock(path, timeout=timeout)


def remove_abandoned(folder):
    """Remove the temporary files that processes killed within `writing` left in `folder`.

    Does nothing while a process holds the folder's lock, `folder`/.lock, to write there.
    """
    abandoned = [file for file in glob.glob(os.path.join(glob.escape(os.fspath(folder)), "*.tmp"))
                 if re.fullmatch(r".+\.[0-9a-f]{8}\.tmp", file)]
    if not abandoned:
        return
    with contextlib.suppress(OSError, Timeout), lock(os.path.join(folder, ".lock"), timeout=0):
        for file in abandoned:
            with contextlib.suppress(OSError):  # removed by another process just now
                os.unlink(file)
