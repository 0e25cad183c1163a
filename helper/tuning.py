"""Training of intermediate classifiers on a frozen network (DIH): its objective, and the best of each head."""
from copy import deepcopy

import torch
from torch import nn

from helper.networks import NetworkOnDevice
from helper.objective import Losses
from helper.optim import Learned
from models.features import Features


class TunedHeads(nn.Module):
    """Heads in training, and the best of each so far: each is chosen by its own loss on the scored images.

    The heads do not depend on one another, so their best epochs may differ. All of it is in the state_dict, from which
    an interrupted run goes on.
    """

    def __init__(self, heads):
        super().__init__()
        self.heads, self.best = heads, deepcopy(heads).requires_grad_(False)
        self.register_buffer("best_loss", torch.full((len(heads.stages),), torch.inf, dtype=torch.float64))
        self.register_buffer("best_acc", torch.zeros(len(heads.stages), dtype=torch.float64))
        self.register_buffer("best_epoch", torch.zeros(len(heads.stages), dtype=torch.int64))

    @torch.no_grad()
    def keep_best(self, row, split, task):
        """Keep a copy of each head whose mean loss over the images of `split` is the lowest yet."""
        for i, stage in enumerate(self.heads.stages):
            loss, acc = (row[key] for key in task.part(split, head_name(stage)))
            if loss < self.best_loss[i]:
                self.best_loss[i], self.best_acc[i] = loss, acc
                self.best_epoch[i] = row["epoch"]
                self.best[str(stage)].load_state_dict(self.heads[str(stage)].state_dict())


def head_name(stage):
    return f"head{stage}"


class HeadTuning(nn.Module):
    """The sum of the heads' cross-entropies. The network runs once per batch, in eval mode, without a graph.

    Args:
        network: whose stage maps the heads read; frozen here.
        heads: models.heads.Heads, trained.
        device: helper.device.Device.
        split: the images that choose the best epoch, "val" or "test".
        task: of tasks.tasks.

    Shapes: batch.images (B, 3, H, W), batch.target (B,) -> Losses, whose logits are the deepest head's.
    """

    updates, method = 1, None

    def __init__(self, network, heads, device, split, task):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.student = TunedHeads(heads)  # what is trained and checkpointed
        self.on_device, self.split, self.task = NetworkOnDevice(device), split, task

    def train(self, mode=True):
        super().train(mode)
        self.network.eval()  # nothing of it may change, BatchNorm's statistics included
        return self

    def forward(self, batch, update=0):
        deepest = self.student.heads.stages[-1]
        with torch.no_grad():
            features = Features(*self.on_device(self.network, batch.images, is_feat=True, depth=1 + deepest))
        with self.on_device.device.autocast():
            logits = self.student.heads(features.maps)
        terms = {head_name(stage): self.task.criterion(Features([], z), None, batch)
                 for stage, z in zip(self.student.heads.stages, logits, strict=True)}
        return Losses(sum(terms.values()), terms, logits[-1])

    def learned(self):
        return Learned(self.student)

    def deployed(self, learned=None):
        return _Classifiers(self.network, (learned or self.learned()).student.heads)

    def scored(self, row):
        self.student.keep_best(row, self.split, self.task)

    def trained_parameters(self):
        return [p for p in self.parameters() if p.requires_grad]


class _Classifiers(nn.Module):
    """images (B, 3, H, W) -> {name: logits (B, K)} of all heads, for evaluation. Shares their weights."""

    def __init__(self, network, heads):
        super().__init__()
        self.network, self.heads = network, heads

    def forward(self, images):
        maps = Features(*self.network(images, is_feat=True, depth=1 + self.heads.stages[-1])).maps
        return {head_name(stage): z for stage, z in zip(self.heads.stages, self.heads(maps), strict=True)}


def file_facts(trained):
    """What the file of heads says of each head: accuracy (%), loss (nats) and epoch at which it was best."""
    return {"acc": trained.best_acc.tolist(), "loss": trained.best_loss.tolist(), "epoch": trained.best_epoch.tolist()}


def describe_heads(tuned, split):
    """A line per head, shallow to deep."""
    numbers = zip(tuned.heads.stages, *(x.tolist() for x in (tuned.best_acc, tuned.best_loss, tuned.best_epoch)),
                  strict=True)
    return "\n".join(f"head on stage {stage}: {acc:.2f}% on the {split} images, loss {loss:.4f} (epoch {epoch})"
                     for stage, acc, loss, epoch in numbers)
