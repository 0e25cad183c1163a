"""The banks of embeddings that CRD contrasts with, and which of them a sample is contrasted with."""
import numpy as np
import torch
from torch import nn

from losses import unit


class MemoryBank(nn.Module):
    """One embedding per training image and network, moved towards the newest one whenever the image is seen.

    `memory_v1` (n_data, feat_dim) is the student's bank, `memory_v2` the teacher's: the published buffer names.
    Entries start uniform in +-1/sqrt(feat_dim/3), not normalised, as published.
    """

    def __init__(self, n_data, feat_dim, momentum):
        super().__init__()
        self.momentum = momentum
        bound = 1 / (feat_dim / 3) ** 0.5
        for name in ("memory_v1", "memory_v2"):
            self.register_buffer(name, torch.empty(n_data, feat_dim).uniform_(-bound, bound))

    @torch.no_grad()
    def update(self, v_s, v_t, index):
        """M[index] <- unit(momentum * M[index] + (1 - momentum) * v). v_s, v_t (B, D) unit embeddings, index (B,)."""
        for bank, v in ((self.memory_v1, v_s), (self.memory_v2, v_t)):
            mixed = self.momentum * bank[index] + (1 - self.momentum) * v
            bank.index_copy_(0, index, unit(mixed, dim=1))


class MemoryQueue(nn.Module):
    """The newest `size` embeddings of each network with their classes, first in, first out.

    For data sets whose bank would not fit: 1.3M images take 1.3 GB, a queue of 16,384 takes 17 MB. Slots that were
    never filled hold random directions of no class, as MoCo's queue does (He et al. 2020, arXiv 1911.05722).
    """

    def __init__(self, size, feat_dim):
        super().__init__()
        for name in ("queue_s", "queue_t"):
            self.register_buffer(name, unit(torch.randn(size, feat_dim), dim=1))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, v_s, v_t, target):
        """Replace the oldest slots. v_s, v_t (B, D) unit embeddings, target (B,) classes; of a batch larger than the
        queue the last ones stay."""
        size = len(self.labels)
        v_s, v_t, target = v_s[-size:], v_t[-size:], target[-size:]
        slots = (self.next + torch.arange(len(target), device=target.device)) % size
        self.queue_s.index_copy_(0, slots, v_s)
        self.queue_t.index_copy_(0, slots, v_t)
        self.labels.index_copy_(0, slots, target)
        self.next.copy_((self.next + len(target)) % size)


class NegativeSampler(nn.Module):
    """Draws, for each image of a batch, what it is contrasted with: one positive and `k` images of other classes.

    Negatives are uniform over the images of other classes, without replacement where there are k of them, else with;
    each image's are independent of the others'.

    Args:
        targets: (N,) class of each training image.
        k: negatives per image.
        mode: "exact": an image's positive is itself; "relax": any image of its class.

    Shapes: index, target (B,) -> (B, 1 + k) int64, the positive in column 0.
    """

    def __init__(self, targets, k, mode="exact"):
        super().__init__()
        self.k, self.mode = k, mode
        counts = torch.bincount(targets)
        # Images sorted by class: those of class c fill by_class[start[c] : start[c] + count[c]], all others the rest.
        # Functions of the data set, so not part of a checkpoint.
        self.register_buffer("by_class", targets.argsort(stable=True), persistent=False)
        self.register_buffer("count", counts, persistent=False)
        self.register_buffer("start", counts.cumsum(0) - counts, persistent=False)
        present = counts[counts > 0]
        self.fewest = len(targets) - int(present.max())  # images of other classes, for any image: at least
        self.most = len(targets) - int(present.min())  # and at most

    @torch.no_grad()
    def forward(self, index, target):
        if self.mode == "relax":
            start, count = self.start[target][:, None], self.count[target][:, None]  # (B, 1)
            index = self.by_class[start + (torch.rand(start.shape, device=start.device) * count).long()][:, 0]
        return torch.cat([index[:, None], self._negatives(target)], dim=1)

    def _negatives(self, target):
        """(B, k) images of other classes than `target` (B,)."""
        start, count = self.start[target], self.count[target]
        if self.k <= self.fewest:
            return self._distinct(start, count)
        others = len(self.by_class) - count[:, None]
        place = (torch.rand(len(others), self.k, device=others.device, dtype=torch.float64) * others).long()
        drawn = self.by_class[_step_over(place, start[:, None], count[:, None])]
        if self.k > self.most:
            return drawn
        # Some classes have k others. Of the rows that have not, `_distinct` is told that there is no own class.
        few = self.k > others
        return torch.where(few, drawn, self._distinct(start, count.where(~few[:, 0], 0)))

    def _distinct(self, start, count):
        if start.device.type == "cpu":
            return distinct_by_bytes(self.by_class, start, count, self.k)
        place = distinct_by_keys(len(self.by_class) - count[:, None], len(self.by_class), self.k)
        return self.by_class[_step_over(place, start[:, None], count[:, None])]


def _step_over(place, start, count):
    """Where among all images, sorted by class, a place among those outside of start : start + count is."""
    return place + count * (place >= start)


@torch.compiler.disable  # it is numpy's, which would be traced into slower operations
def distinct_by_bytes(by_class, start, count, k):
    """k different images for each row, uniform among those outside of its class: (B, k), ascending. For the CPU.

    A random byte per image decides, with a threshold that takes some too few; the rest is drawn until no image comes
    twice. Given how many the bytes took, all sets of that size are as likely, and so are those that it grows to. 0.1 ms
    a row of 50,000 images; numpy's choice needs as long for an order that is then random in memory.

    Args:
        by_class: (N,) all images, sorted by class.
        start, count: (B,) where in by_class the row's own class begins, and its images.
    """
    B, N = len(start), len(by_class)
    by_class, start, count = by_class.numpy(), start.numpy(), count.numpy()
    others = N - count
    inverted = 2 * k > others  # the images left out are drawn instead: half of a row at most is ever drawn
    wanted = np.where(inverted, others - k, k)
    # Seeded from PyTorch's generator, which is the one that checkpoints hold.
    generator = np.random.default_rng(torch.randint(2**62, ()).item())
    most = wanted - 4 * np.sqrt(wanted * (1 - wanted / others))  # four standard deviations below
    threshold = np.clip(256 * most / others, 0, 255).astype(np.uint8)
    words = generator.integers(2**64, size=(B, -(-N // 8)), dtype=np.uint64)
    drawn = words.view(np.uint8)[:, :N] < threshold[:, None]
    own_class = [by_class[first:first + n] for first, n in zip(start, count, strict=True)]
    for row, own in zip(drawn, own_class, strict=True):
        row[own] = False
    while (missing := wanted - [np.count_nonzero(row) for row in drawn]).any():
        drawn[missing < 0] = False  # one row in 30,000: again, from none
        row = np.repeat(np.arange(B), missing.clip(0))
        place = (generator.random(len(row)) * others[row]).astype(np.int64)
        drawn[row, by_class[_step_over(place, start[row], count[row])]] = True
    for i in np.flatnonzero(inverted):
        drawn[i] = ~drawn[i]
        drawn[i, own_class[i]] = False
    return torch.from_numpy(np.flatnonzero(drawn).reshape(B, k) - N * np.arange(B)[:, None])


def distinct_by_keys(sizes, most, k):
    """k different places in [0, size) for each size of (B, 1), uniform: (B, k). For a GPU: the k largest of random
    keys, without a loop. `most` is at least the largest of all sizes."""
    keys = torch.rand(len(sizes), most, device=sizes.device)
    keys.masked_fill_(torch.arange(most, device=sizes.device) >= sizes, -1)  # places beyond this row's
    return keys.topk(k, dim=1, sorted=False).indices
