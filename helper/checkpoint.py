"""Files that survive a kill, and the state from which a run goes on to the same bits."""
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from errors import UsageError
from helper.device import random_state, set_random_state
from models import read_checkpoint


def write_atomically(path, write):
    """Have `write(file)` fill a temporary file beside `path`, flush it to the disk and rename it into place.

    Whoever reads `path`, at any moment and after any crash, finds the old file or the new one, never half of one.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask():
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask


def save_checkpoint(path, checkpoint):
    """torch.save, atomically. `checkpoint` holds tensors and plain values only."""
    try:
        write_atomically(path, lambda file: torch.save(checkpoint, file))
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError of its zip writer
        reason = str(error).splitlines()[0]
        raise UsageError(f"cannot write {path} ({reason}): is the disk full? The one before it is kept") from error


def snapshot(value):
    """A copy of tensors, and of the dicts and lists that hold them, in the CPU's memory: what happens to them later
    does not reach it."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    return [snapshot(item) for item in value] if isinstance(value, list) else value


class Writer:
    """One thread that does the writing while training goes on; one job at a time, in the order they came."""

    def __init__(self):
        self._thread, self._job = ThreadPoolExecutor(max_workers=1), None

    def submit(self, write, *args):
        """Have write(*args) done, once the job before is. Raises what that one raised."""
        self.wait()
        self._job = self._thread.submit(write, *args)

    def wait(self):
        """Return when all is written. Raises what the writing raised."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self):
        """As `wait`, without raising, and for good."""
        self._thread.shutdown()


def weights_hash(model):
    """Twelve hexadecimal digits that name a network's weights: equal for equal state_dicts, on any device."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


RESULT = {"model", "method"}  # parts of a run's state that the trained student needs


class Training:
    """All that changes while a network trains, to be saved and restored as one."""

    def __init__(self, objective, optimizer, scheduler, scaler, loader, meters):
        self.optimizer, self.scaler, self.loader, self.meters = optimizer, scaler, loader, meters
        self.parts = {"model": objective.student, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler,
                      "loader": loader, "meters": meters}
        if objective.method is not None:
            self.parts["method"] = objective.method

    def result(self):
        """The part of the state that the trained student needs."""
        return self._states(RESULT)

    def rest(self):
        """What is needed besides to go on: the random generators of the process among it."""
        return self._states(self.parts.keys() - RESULT) | {"rng": random_state()}

    def state_dict(self):
        """Tensors and plain values."""
        return self.result() | self.rest()

    def _states(self, names):
        return {name: part.state_dict() for name, part in self.parts.items() if name in names}

    def load_state_dict(self, state):
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        set_random_state(state["rng"])


def load_training(path, training):
    """Restore `training` from the file `path` and return the whole checkpoint.

    Raises:
        UsageError: unreadable, or of another network or method than these.
    """
    checkpoint = read_checkpoint(path)
    try:
        training.load_state_dict(checkpoint)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"cannot resume from {path} ({reason}): pass --overwrite to start anew") from error
    return checkpoint
