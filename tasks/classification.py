"""Classification: its loss on the labels, what is measured, the names of the metrics, and what best means."""
import torch
import torch.nn.functional as F
from torch import nn

from models.features import Reads

CALIBRATION_BINS = 15
# The keys of scores. In a row of metrics a split's name stands before them: test_acc, val_loss.
LOSS, ACC, TOP5 = "loss", "acc", "acc_top5"


class CrossEntropy(nn.Module):
    """Cross-entropy of the student's logits with the labels: (s, t, batch) -> 0-dim.

    batch.soft (B, K), where there is one, takes the place of the classes batch.target (B,).
    """

    reads = Reads(teacher=False)

    def forward(self, s, t, batch):
        target = batch.target if batch.soft is None else batch.soft
        return F.cross_entropy(s.logits.float(), target)


class Classification:
    """One label per image. A higher top-1 accuracy is better."""

    name = "classification"
    metric = ACC

    def __init__(self):
        self.criterion = CrossEntropy()

    def hits(self, logits, batch):
        """How many images of a training batch are predicted right, () int64: logits (B, K)."""
        return (logits.argmax(dim=1) == batch.target).sum()

    def scorer(self, detailed=False):
        """A Scorer of the images of a split."""
        return Scorer(detailed)

    def key(self, split):
        """The metric of a row that tells how good a network is, in %: test_acc."""
        return f"{split}_{ACC}"

    def value(self, row, split="test"):
        """That metric of a row."""
        return row[self.key(split)]

    def choosing_split(self, row):
        """The split of a row that chooses the best epoch: held-out images where there are any, else the test images."""
        return "val" if self.key("val") in row else "test"

    def best(self, rows):
        """The first row with the best value on the choosing split."""
        return max(rows, key=lambda row: self.value(row, self.choosing_split(row)))

    def is_better(self, row, other):
        """Is `row` better than the best so far?"""
        split = self.choosing_split(row)
        return self.value(row, split) > self.value(other, split)

    def training_row(self, averages):
        """The training half of a row from averages of helper.meters.Meters: published names, a key per loss term."""
        averages = dict(averages)
        return {"train_loss": averages.pop("loss"), f"train_{ACC}": averages.pop(ACC), **averages}

    def scored_row(self, split, scores):
        """The scores of a split as entries of a row."""
        return {f"{split}_{key}": value for key, value in scores.items()}

    def part(self, split, name):
        """({loss key}, {accuracy key}) in a row of one of several classifiers."""
        return f"{split}_{name}_{LOSS}", f"{split}_{name}_{ACC}"

    def parts(self, row, split="test"):
        """Names of the classifiers that a row has scores of, where there are several."""
        start, end = f"{split}_", f"_{ACC}"
        return [key[len(start):-len(end)] for key in row
                if key.startswith(start) and key.endswith(end) and key != self.key(split)]

    def line(self, row):
        """The accuracies of a row, for people."""
        return "  ".join(f"{key.removesuffix(f'_{ACC}')} {row[key]:.2f}%" for key in row if key.endswith(f"_{ACC}"))

    def describe(self, scores):
        """Detailed scores as lines for people."""
        lines = [f"top-1 {scores[ACC]:.2f}%   top-5 {scores[TOP5]:.2f}%   cross-entropy {scores[LOSS]:.4f}   "
                 f"calibration error {scores['ece']:.2f}%   ({scores['images']} images)"]
        if "agreement" in scores:
            lines.append(f"teacher {scores['teacher_acc']:.2f}%   same class as the teacher {scores['agreement']:.2f}%"
                         f"   KL from the teacher {scores['teacher_kl']:.4f}")
        return "\n".join(lines)


class Scorer:
    """Sums over the images of a split, kept on the device; `compute` is the synchronisation point.

    detailed: also calibration, and agreement with a teacher.
    """

    def __init__(self, detailed=False):
        self.detailed = detailed
        self.names, self.sums, self.more, self.images = [], 0, {}, 0

    def update(self, out, batch, teacher=None):
        """Add a batch.

        Args:
            out: logits (B, K), or {name: logits} of several classifiers.
            teacher: another network's logits (B, K) to agree with.
        """
        self.names = list(out) if isinstance(out, dict) else []
        rows = [_sums(out[name], batch.target) for name in self.names] or [_sums(out, batch.target)]
        self.sums = self.sums + torch.stack(rows)
        self.images += len(batch.target)
        if self.detailed:
            self._add("bins", calibration_gaps(out.float(), batch.target))
            if teacher is not None:
                self._add("teacher", _agreement(out.float(), teacher.float(), batch.target))

    def compute(self):
        """{"loss", "acc", "acc_top5"}: nats, %, % (top-5 of fewer than five classes is 100).

        Of several classifiers: the means, and "NAME_loss", "NAME_acc" of each. Detailed also: "ece" (expected
        calibration error, %, 15 equal bins of the top probability: Guo et al. 2017, arXiv 1706.04599), "images"; with a
        teacher "teacher_acc" (%), "agreement" (% of images given the same class), "teacher_kl" (mean KL of the model
        from the teacher, nats, T = 1).
        """
        rows = (self.sums / self.images).cpu() * torch.tensor([1.0, 100.0, 100.0])  # (classifiers, 3)
        scores = dict(zip((LOSS, ACC, TOP5), rows.mean(0).tolist(), strict=True))
        for name, (loss, acc, _) in zip(self.names, rows.tolist(), strict=False):
            scores |= {f"{name}_{LOSS}": loss, f"{name}_{ACC}": acc}
        if self.detailed:
            scores |= {"ece": 100 * self.more["bins"].abs().sum().item() / self.images, "images": self.images}
        if "teacher" in self.more:
            right, same, kl = (self.more["teacher"] / self.images).tolist()
            scores |= {"teacher_acc": 100 * right, "agreement": 100 * same, "teacher_kl": kl}
        return scores

    def _add(self, key, values):
        self.more[key] = self.more.get(key, 0) + values


def _sums(logits, target):
    """Summed cross-entropy, and numbers of top-1 and top-5 hits, of logits (B, K): (3,) float64."""
    logits = logits.float()
    hits = logits.topk(min(5, logits.shape[1])).indices == target[:, None]  # (B, 5)
    loss = F.cross_entropy(logits, target, reduction="sum")
    return torch.stack([loss.double(), hits[:, 0].sum().double(), hits.sum().double()])


def _agreement(z, z_t, target):
    """Hits of the teacher, images given one class by both, summed KL of z from z_t: (3,) float64. z, z_t (B, K)."""
    classes, kl = z_t.argmax(dim=1), F.kl_div(F.log_softmax(z, dim=1), F.log_softmax(z_t, dim=1), reduction="sum",
                                              log_target=True)
    return torch.stack([(classes == target).sum().double(), (classes == z.argmax(dim=1)).sum().double(), kl.double()])


def calibration_gaps(logits, target, bins=CALIBRATION_BINS):
    """The sum of hits - confidences in each bin of the top probability, the bins being (low, high].

    Shapes: logits (B, K), target (B,) -> (bins,) float64.
    """
    confidence, predicted = F.softmax(logits, dim=1).max(dim=1)
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    difference = (predicted == target).double() - confidence.double()  # (B,)
    return torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add(0, index, difference)


def calibration_error(logits, target, bins=CALIBRATION_BINS):
    """Expected calibration error in [0, 1]: |accuracy - confidence| of each bin, weighted by its share of the samples.

    Shapes: logits (N, K), target (N,) -> ().
    """
    return calibration_gaps(logits, target, bins).abs().sum() / len(target)
