"""Cross-Layer Distillation with Semantic Calibration. Chen et al. AAAI 2021, arXiv 2012.03236.

L = 1 / (B S) * sum_{b,i,j} a_bij * mean_chw (P_ij(f_s^i) - f_t^j)^2,   a_b = softmax_j(<q_bi, k_bj> / soft)
q_bi, k_bj: MLPs, of unit length, of row b of F F^T,   F = map i of the student, j of the teacher, as (B, CHW)
"""
import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.method import LossWeights, Method
from errors import UsageError
from flags import Option, number
from losses import Loss, pool_to_match, unit
from models.base import conv1x1, conv3x3
from models.features import Reads
from models.norm import BatchNorm2d

NARROWING = 4  # batch size over the width of the MLPs' output; published, unrelated to the flag --factor


class LayerAttention(Loss):
    """The weight of each pair of a student's and a teacher's layer in the loss, for every sample.

    The MLPs read a sample's products with the whole batch, so they have --batch_size inputs. In a shorter batch, such
    as an epoch's last, the missing samples' products are 0, like the products of a sample whose features are 0.
    (SimKD's toolbox skips such batches.)

    This is not a loss; it derives from Loss to run in float32, because products over a whole map need that precision.

    Args:
        n_s, n_t: S and T, the numbers of layers.
        batch_size: the largest batch to come.
        soft: temperature of the softmax.

    Shapes: maps_s, maps_t lists of S and T maps (B, C, H, W) -> (B, S, T), rows of sum 1.
    """

    def __init__(self, n_s, n_t, batch_size, soft):
        super().__init__()
        width = batch_size // NARROWING
        self.batch_size, self.soft = batch_size, soft
        self.query = nn.ModuleList(_mlp(batch_size, width) for _ in range(n_s))
        self.key = nn.ModuleList(_mlp(batch_size, width) for _ in range(n_t))

    def forward(self, maps_s, maps_t):
        query = self._embed(self.query, maps_s)  # (B, S, E)
        key = self._embed(self.key, [f_t.detach() for f_t in maps_t])  # (B, T, E)
        return F.softmax(query @ key.mT / self.soft, dim=2)

    def _embed(self, mlps, maps):
        return torch.stack([unit(mlp(self._products(f)), dim=1) for mlp, f in zip(mlps, maps, strict=True)], dim=1)

    def _products(self, f):
        rows = f.flatten(1)  # (B, C, H, W) -> (B, CHW)
        return F.pad(rows @ rows.mT, (0, self.batch_size - len(rows)))  # (B, B) -> (B, batch_size)


def _mlp(size, width):
    return nn.Sequential(nn.Linear(size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


class _SampleGap(Loss):
    """Mean squared difference per sample, in float32: (B, C, H, W) twice -> (B,)."""

    def forward(self, f_s, f_t):
        return (f_s - f_t.detach()).square().mean((1, 2, 3))


def _projector(c_s, c_t):
    width = 2 * c_t
    return nn.Sequential(conv1x1(c_s, width), BatchNorm2d(width), nn.ReLU(inplace=True),
                         conv3x3(width, width), BatchNorm2d(width), nn.ReLU(inplace=True),
                         conv1x1(width, c_t))


class SemCKD(nn.Module):
    """Mean squared differences of all the student's projected layers from all the teacher's, weighted for every sample.

    The projectors, by far the largest part, run in the surrounding precision; everything else runs in float32.

    Args:
        s_shapes, t_shapes: shapes of the maps, (C, H, W) or (B, C, H, W).
        batch_size: the largest batch to come, at least 4.
        soft: temperature of the attention.

    Shapes: maps_s, maps_t lists of (B, C, H, W), of any channels and sizes, B <= batch_size -> () loss.

    Raises:
        UsageError: a batch_size below 4, or a batch that is larger.
    """

    def __init__(self, s_shapes, t_shapes, batch_size, soft=1.0):
        super().__init__()
        if batch_size < NARROWING:
            raise UsageError(f"semckd: --batch_size {batch_size} is too small for its attention over the batch: "
                             f"use {NARROWING} or more")
        self.batch_size = batch_size
        self.attention = LayerAttention(len(s_shapes), len(t_shapes), batch_size, soft)
        self.projectors = nn.ModuleList(nn.ModuleList(_projector(s[-3], t[-3]) for t in t_shapes) for s in s_shapes)
        self.gap = _SampleGap()

    def forward(self, maps_s, maps_t):
        samples = len(maps_s[0])
        if samples > self.batch_size:
            raise UsageError(f"semckd: a batch of {samples}, but its attention was built for {self.batch_size}: use "
                             f"--batch_size {samples}")
        attention = self.attention(maps_s, maps_t)  # (B, S, T)
        gaps = torch.stack([self._gap(i, j, f_s, f_t) for i, f_s in enumerate(maps_s) for j, f_t in enumerate(maps_t)])
        gaps = gaps.unflatten(0, (len(maps_s), len(maps_t))).movedim(2, 0)  # (S T, B) -> (B, S, T)
        return (attention * gaps).sum() / (samples * len(maps_s))

    def _gap(self, i, j, f_s, f_t):
        f_s, f_t = pool_to_match(f_s, f_t)
        return self.gap(self.projectors[i][j](f_s), f_t)


class SemCKDMethod(Method):
    """Every stage of the student learns from every stage of the teacher, with weights from attention over the batch.

    A step takes more than three times as long as kd's for a small student (results/speed.md): each of the S x T
    projectors has a 3x3 convolution of twice the teacher's channels, and together they are larger than the student.

    Raises:
        UsageError: as SemCKD.
    """

    weights = LossWeights(1.0, 1.0, 400.0, "SimKD's toolbox, scripts/run_distill.sh")
    options = (Option(("-s", "--soft"), {"type": number(float, above=0), "default": 1.0, "metavar": "T",
                                         "help": "semckd: temperature of its attention"}),)
    reads = Reads(maps=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = SemCKD(self.s_shapes[1:-1], self.t_shapes[1:-1], opt.batch_size, opt.soft)

    def forward(self, s, t, batch):
        return self.loss(s.maps, t.maps)
