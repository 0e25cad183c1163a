"""The base of both loaders: the batch, the order of an epoch, and a loader's position."""
from typing import NamedTuple

import numpy as np
import torch

from errors import UsageError


class Batch(NamedTuple):
    """Images with their labels, on the loader's device."""

    images: torch.Tensor  # (B, 3, H, W) float32, normalised
    target: torch.Tensor  # (B,) int64, class
    index: torch.Tensor  # (B,) int64, position in the ImageSet
    soft: torch.Tensor | None = None  # (B, K) float32, probabilities instead of classes


def derived_seed(*parts):
    """A well-mixed 64-bit seed from integers: (0, 1) and (1, 0) give unrelated streams."""
    return int(np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1, np.uint64)[0])


def epoch_order(n, train, seed, epoch):
    """(order of the n images in an epoch, (n,) int64; the CPU generator that drew it, None if not train)."""
    if not train:
        return torch.arange(n), None
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(n, generator=generator), generator


class Loader:
    """Iterable over batches; each `for batch in loader` is one epoch, and the next loop is the next epoch.

    All random numbers of epoch e are a function of (seed, e) and of a sample's position in that epoch. So the two
    integers of `state_dict` suffice to continue from any batch with the same bits.

    A loop that is left early and started again repeats its epoch from the start, as PyTorch's DataLoader does. Only
    `load_state_dict` makes the next loop begin in the middle of an epoch.

    Args: those of dataset.make_loader.

    Raises:
        UsageError: an unknown padding_mode.
    """

    def __init__(self, images, *, batch_size, train, device, seed, drop_last, padding_mode, channels_last):
        if padding_mode not in ("constant", "reflect"):
            raise UsageError(f"padding mode '{padding_mode}': choose from constant, reflect")
        self.images = images
        self.batch_size, self.train, self.drop_last = batch_size, train, drop_last
        self.device, self.seed = torch.device(device), seed
        self.padding_mode, self.channels_last = padding_mode, channels_last
        self.epoch = 0  # the present or next epoch, counted from 0
        self._step = 0  # batches of it that have been yielded
        self._start = 0  # where the next loop begins

    def __len__(self):
        full, rest = divmod(len(self.images), self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __iter__(self):
        self._step, self._start = self._start, 0
        for batch in self._batches(self.epoch, self._step):
            self._step += 1  # before the yield: while the caller has batch k, the next one is k + 1
            yield batch
        self.epoch, self._step = self.epoch + 1, 0

    def _batches(self, epoch, start):
        """Yields the batches `start`, `start` + 1, ... of an epoch; nothing if start == len(self)."""
        raise NotImplementedError

    def state_dict(self):
        """{"epoch", "step"} of the next batch, both counted from 0. It is exact at any moment between two batches."""
        return {"epoch": self.epoch, "step": self._step}

    def load_state_dict(self, state):
        """Continues from `state`. A step equal to len(self) means a finished epoch: its loop yields nothing.

        Raises UsageError for a step beyond the epoch.
        """
        if not 0 <= state["step"] <= len(self):
            raise UsageError(f"cannot resume at batch {state['step']} of an epoch of {len(self)}: "
                             "resume with the data set and --batch_size of the interrupted run")
        self.epoch, self._step, self._start = state["epoch"], state["step"], state["step"]
