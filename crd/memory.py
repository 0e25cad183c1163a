"""The embeddings that CRD contrasts a sample with (bank or queue), and the choice of a sample's negatives."""
import numpy as np
import torch
from torch import nn

from losses import unit


class MemoryBank(nn.Module):
    """One embedding per training image and network, a moving average of the embeddings of that image.

    `memory_v1` (n_data, feat_dim) is the student's bank, `memory_v2` the teacher's: the published buffer names.
    Entries are initialised uniformly in +-1/sqrt(feat_dim/3), not normalised, as published.
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

    It is for data sets whose bank would not fit: 1.3M images take 1.3 GB, a queue of 16,384 takes 17 MB. Slots that
    are not filled yet hold random unit vectors of class -1, as in MoCo's queue (He et al. 2020, arXiv 1911.05722).
    """

    def __init__(self, size, feat_dim):
        super().__init__()
        for name in ("queue_s", "queue_t"):
            self.register_buffer(name, unit(torch.randn(size, feat_dim), dim=1))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, v_s, v_t, target):
        """Replaces the oldest slots. v_s, v_t (B, D) unit embeddings, target (B,) classes.

        If the batch is larger than the queue, the last samples stay.
        """
        size = len(self.labels)
        v_s, v_t, target = v_s[-size:], v_t[-size:], target[-size:]
        slots = (self.next + torch.arange(len(target), device=target.device)) % size
        self.queue_s.index_copy_(0, slots, v_s)
        self.queue_t.index_copy_(0, slots, v_t)
        self.labels.index_copy_(0, slots, target)
        self.next.copy_((self.next + len(target)) % size)


class NegativeSampler(nn.Module):
    """Draws one positive and `k` images of other classes for each image of a batch.

    Negatives are uniform over the images of other classes: without replacement where there are at least k of them, else
    with replacement. The draws of different images are independent.

    Args:
        targets: (N,) class of each training image.
        k: negatives per image.
        mode: "exact": the positive is the image itself; "relax": the positive is any image of its class.

    Shapes: index, target (B,) -> (B, 1 + k) int64, the positive in column 0.
    """

    def __init__(self, targets, k, mode="exact"):
        super().__init__()
        self.k, self.mode = k, mode
        # It uses numpy, which would be traced into slower operations. Here and not as a decorator: the call imports the
        # compiler, which takes seconds, for every script.
        self.distinct_by_bytes = torch.compiler.disable(distinct_by_bytes)
        counts = torch.bincount(targets)
        # Images sorted by class: class c is by_class[start[c] : start[c] + count[c]].
        # They are functions of the data set, so they are not checkpointed.
        self.register_buffer("by_class", targets.argsort(stable=True), persistent=False)
        self.register_buffer("count", counts, persistent=False)
        self.register_buffer("start", counts.cumsum(0) - counts, persistent=False)
        present = counts[counts > 0]
        self.fewest = len(targets) - int(present.max())  # minimum over the images of the images of other classes
        self.most = len(targets) - int(present.min())  # and the maximum

    @torch.no_grad()
    def forward(self, index, target):
        if self.mode == "relax":
            start, count = self.start[target][:, None], self.count[target][:, None]  # (B, 1)
            index = self.by_class[start + (torch.rand(start.shape, device=start.device) * count).long()][:, 0]
        return torch.cat([index[:, None], self._negatives(target)], dim=1)

    def _negatives(self, target):
        """(B, k) images whose class is not `target` (B,)."""
        start, count = self.start[target], self.count[target]
        if self.k <= self.fewest:
            return self._distinct(start, count)
        others = len(self.by_class) - count[:, None]
        place = (torch.rand(len(others), self.k, device=others.device, dtype=torch.float64) * others).long()
        drawn = self.by_class[_step_over(place, start[:, None], count[:, None])]
        if self.k > self.most:
            return drawn
        # Some classes have k images outside them, some do not. The latter rows keep `drawn`; `_distinct` gets count 0
        # for them, so that it has enough images to draw from.
        few = self.k > others
        return torch.where(few, drawn, self._distinct(start, count.where(~few[:, 0], 0)))

    def _distinct(self, start, count):
        if start.device.type == "cpu":
            return self.distinct_by_bytes(self.by_class, start, count, self.k)
        place = distinct_by_keys(len(self.by_class) - count[:, None], len(self.by_class), self.k)
        return self.by_class[_step_over(place, start[:, None], count[:, None])]


def _step_over(place, start, count):
    """Maps positions among the images outside start : start + count to positions among all images sorted by class."""
    return place + count * (place >= start)


def distinct_by_bytes(by_class, start, count, k):
    """k different images per row, uniform among the images outside the row's class: (B, k), ascending. For the CPU.

    One random byte per image selects it if it is below a threshold, which is chosen to select slightly too few images.
    Further images are then drawn one by one until there are enough different ones. Conditioned on its size the drawn
    set is uniform, and so is the completed one. This takes 0.1 ms per row of 50,000 images; numpy's choice takes as
    long and returns an order that is random in memory.

    Args:
        by_class: (N,) all images, sorted by class.
        start, count: (B,) position in by_class where the row's own class begins, and its number of images.
    """
    B, N = len(start), len(by_class)
    by_class, start, count = by_class.numpy(), start.numpy(), count.numpy()
    others = N - count
    inverted = 2 * k > others  # draw the images to leave out instead, so that at most half of a row is drawn
    wanted = np.where(inverted, others - k, k)
    # Seeded from PyTorch's generator, because checkpoints save that one.
    generator = np.random.default_rng(torch.randint(2**62, ()).item())
    most = wanted - 4 * np.sqrt(wanted * (1 - wanted / others))  # four standard deviations fewer
    threshold = np.clip(256 * most / others, 0, 255).astype(np.uint8)
    words = generator.integers(2**64, size=(B, -(-N // 8)), dtype=np.uint64)
    drawn = words.view(np.uint8)[:, :N] < threshold[:, None]
    own_class = [by_class[first:first + n] for first, n in zip(start, count, strict=True)]
    for row, own in zip(drawn, own_class, strict=True):
        row[own] = False
    while (missing := wanted - [np.count_nonzero(row) for row in drawn]).any():
        drawn[missing < 0] = False  # too many, in one row of 30,000: this row starts again from none
        row = np.repeat(np.arange(B), missing.clip(0))
        place = (generator.random(len(row)) * others[row]).astype(np.int64)
        drawn[row, by_class[_step_over(place, start[row], count[row])]] = True
    for i in np.flatnonzero(inverted):
        drawn[i] = ~drawn[i]
        drawn[i, own_class[i]] = False
    return torch.from_numpy(np.flatnonzero(drawn).reshape(B, k) - N * np.arange(B)[:, None])


def distinct_by_keys(sizes, most, k):
    """k different uniform positions in [0, size) for each size: sizes (B, 1) -> (B, k). For a GPU.

    They are the positions of the k largest of random keys, without a loop. most: at least the largest size.
    """
    keys = torch.rand(len(sizes), most, device=sizes.device)
    keys.masked_fill_(torch.arange(most, device=sizes.device) >= sizes, -1)  # positions beyond this row's size
    return keys.topk(k, dim=1, sorted=False).indices
