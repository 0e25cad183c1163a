"""Writes a checkpoint file atomically, and reads one without executing its code.

Reading uses torch.load(weights_only=True) with a short allow-list for what published files hold besides tensors. Old
torch.save formats, argparse options and numpy scalars load; anything else is refused.
"""
import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from errors import UsageError
from files import writing


def save_checkpoint(path, checkpoint):
    """torch.save, atomically. `checkpoint` holds tensors and plain values only.

    Raises UsageError, keeping the file that was there, if the file cannot be written.
    """
    try:
        with writing(path) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError of its zip writer
        reason = str(error).splitlines()[0]
        raise UsageError(f"cannot write {path} ({reason}): is the disk full? The one before it is kept") from error


def read_checkpoint(path):
    """The dict in a checkpoint file, on the CPU. For a directory, its newest checkpoint (find_checkpoint).

    Raises UsageError if the file is missing, empty, truncated or foreign, or if loading it could run code.
    """
    path = find_checkpoint(path)
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty: copy or train it again")
    try:
        with torch.serialization.safe_globals(_allowed_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickle protocols; the load then fails
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes fail in any way: KeyError, struct.error, EOFError ...
        raise UsageError(_why_unreadable(path, error)) from error
    if not isinstance(checkpoint, Mapping):
        raise UsageError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__} instead of a dict")
    return checkpoint


def find_checkpoint(path):
    """The checkpoint file at `path`.

    For a directory, the first that exists of: last.pth, the newest ckpt_epoch_N.pth, *_last.pth, *_best.pth, best.pth.
    Raises UsageError if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"no checkpoint at {path}: check the path")
    epochs = sorted(path.glob("ckpt_epoch_*.pth"), key=_epoch, reverse=True)
    candidates = [path / "last.pth", *epochs, *sorted(path.glob("*_last.pth")), *sorted(path.glob("*_best.pth")),
                  path / "best.pth"]
    for file in candidates:
        if file.is_file():
            return file
    raise UsageError(f"no checkpoint in {path}: give a file, or a directory with last.pth or best.pth")


def _epoch(file):
    number = re.fullmatch(r"ckpt_epoch_(\d+)", file.stem)
    return int(number[1]) if number else -1


def _allowed_globals():
    """Constructors of argparse options, numpy scalars and numpy arrays. They run no code from the file.

    numpy's are listed under the module names of numpy 1 and of numpy 2, because either may have written the file.
    """
    functions = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
    spelled = [(function, f"numpy.{core}.multiarray.{name}")
               for name, function in functions.items() for core in ("core", "_core")]
    dtypes = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    return [argparse.Namespace, np.dtype, np.ndarray, *dtypes, *spelled]


def _why_unreadable(path, error):
    if isinstance(error, PermissionError):
        return f"{path} cannot be opened: permission denied"
    wanted = re.search(r"GLOBAL (\S+)", str(error))  # torch's message for what the file asks to import
    if wanted:
        return f"{path} is refused: it holds a {wanted[1]}, and loading that could run code; save its state_dict alone"
    with open(path, "rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02"):  # the first bytes of torch.save's zip and of its older pickles
        return f"{path} is truncated or damaged: copy or train it again"
    return f"{path} is not a checkpoint: give a file that torch.save wrote"
