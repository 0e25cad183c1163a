"""Fine-tuning of intermediate classifiers on a frozen network (DIH): its objective, and the file it ends in."""
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.base import Features
from errors import UsageError
from helper.checkpoint import save_checkpoint, weights_hash
from helper.objective import Losses, NetworkOnDevice
from models import read_checkpoint


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
    def keep_best(self, row, split):
        """Take over each head whose mean loss over the images of `split` is the lowest yet."""
        for i, stage in enumerate(self.heads.stages):
            loss = row[f"{split}_{head_name(stage)}_loss"]
            if loss < self.best_loss[i]:
                self.best_loss[i], self.best_acc[i] = loss, row[f"{split}_{head_name(stage)}_acc"]
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

    Shapes: batch.images (B, 3, H, W), batch.target (B,) -> Losses, whose logits are the deepest head's.
    """

    turns, method = 1, None

    def __init__(self, network, heads, device, split):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.student = TunedHeads(heads)  # what is trained and checkpointed
        self.on_device, self.split = NetworkOnDevice(device), split

    def train(self, mode=True):
        super().train(mode)
        self.network.eval()  # nothing of it may change, BatchNorm's statistics included
        return self

    def forward(self, batch):
        deepest = self.student.heads.stages[-1]
        with torch.no_grad():
            features = Features(*self.on_device(self.network, batch.images, is_feat=True, depth=1 + deepest))
        with self.on_device.device.autocast():
            logits = self.student.heads(features.maps)
        terms = {head_name(stage): F.cross_entropy(z.float(), batch.target)
                 for stage, z in zip(self.student.heads.stages, logits, strict=True)}
        return Losses(sum(terms.values()), terms, logits[-1])

    def deployed(self):
        return _Classifiers(self.network, self.student.heads)

    def scored(self, row):
        self.student.keep_best(row, self.split)

    def trained_parameters(self):
        return [p for p in self.parameters() if p.requires_grad]


class _Classifiers(nn.Module):
    """images (B, 3, H, W) -> {name: logits (B, K)} of all heads, for evaluation. Shares their weights."""

    def __init__(self, network, heads):
        super().__init__()
        self.network, self.heads = network, heads

    def forward(self, images):
        maps = Features(*self.network(images, is_feat=True)).maps
        return {head_name(stage): z for stage, z in zip(self.heads.stages, self.heads(maps), strict=True)}


def check_place(path):
    """Raises UsageError if there is a file at `path` that is not heads, such as the teacher itself."""
    if path.exists() and "heads" not in read_checkpoint(path):
        raise UsageError(f"{path} is there and holds no heads: give another --name")


def save_heads(path, tuned, opt, teacher):
    """Write the best heads as a file for the methods that teach with them (distiller_zoo/tuned_heads.py)."""
    heads = tuned.best
    save_checkpoint(path, {
        "heads": heads.state_dict(), "hash": weights_hash(heads)[:6], "kind": heads.kind, "pool": heads.pool,
        "stages": list(heads.stages), "shapes": [list(shape) for shape in heads.shapes],
        "num_classes": opt.num_classes, "image_size": opt.image_size, "teacher_arch": teacher["arch"],
        "teacher_hash": teacher["hash"], "teacher_acc": teacher["accuracy"],
        "acc": tuned.best_acc.tolist(), "loss": tuned.best_loss.tolist(), "epoch": tuned.best_epoch.tolist()})


def describe_heads(tuned, split):
    """A line per head, shallow to deep."""
    numbers = zip(tuned.heads.stages, *(x.tolist() for x in (tuned.best_acc, tuned.best_loss, tuned.best_epoch)),
                  strict=True)
    return "\n".join(f"head on stage {stage}: {acc:.2f}% on the {split} images, loss {loss:.4f} (epoch {epoch})"
                     for stage, acc, loss, epoch in numbers)
