"""The banks of embeddings that CRD contrasts with, and which of them a sample is contrasted with."""
import numpy as np
import torch
from torch import nn

from distiller_zoo.unit import unit


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

    Negatives are uniform over the images of other classes, without replacement while there are k of them, else with;
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
        start, count = self.start[target][:, None], self.count[target][:, None]  # (B, 1)
        others = len(self.by_class) - count
        place = self._draw(others)  # (B, k) places among the other classes' images
        place += count * (place >= start)  # step over the image's own class
        if self.mode == "relax":
            positive = self.by_class[start + (torch.rand(start.shape, device=start.device) * count).long()]
        else:
            positive = index[:, None]
        drawn = place.new_empty(len(place), 1 + self.k)
        drawn[:, :1] = positive
        drawn[:, 1:] = self.by_class[place]
        return drawn

    def _draw(self, sizes):
        if self.k > self.fewest:
            return (torch.rand(len(sizes), self.k, device=sizes.device, dtype=torch.float64) * sizes).long()
        if sizes.device.type == "cpu":
            return distinct_by_numpy(sizes, self.k)
        return distinct_by_keys(sizes, self.most, self.k)


def distinct_by_numpy(sizes, k):
    """k different places in [0, size) for each size of (B, 1), uniform: (B, k). 0.1 ms a row on the CPU.

    Seeded from PyTorch's generator, which is the one that checkpoints hold.
    """
    generator = np.random.default_rng(torch.randint(2**62, ()).item())
    places = np.empty((len(sizes), k), dtype=np.int64)
    for row, size in zip(places, sizes.flatten().tolist(), strict=True):
        row[:] = generator.choice(size, k, replace=False, shuffle=False)
    return torch.from_numpy(places)


def distinct_by_keys(sizes, most, k):
    """The same on any device without a loop: the k largest of random keys. `most` is the largest of all sizes."""
    keys = torch.rand(len(sizes), most, device=sizes.device)
    keys.masked_fill_(torch.arange(most, device=sizes.device) >= sizes, -1)  # places beyond this row's
    return keys.topk(k, dim=1, sorted=False).indices
