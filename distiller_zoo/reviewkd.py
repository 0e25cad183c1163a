"""Distilling Knowledge via Knowledge Review. Chen, Liu, Zhao, Jia. CVPR 2021, arXiv 2104.09044.

L = sum_l HCL(P_l(r_l), f_t^l),   r_l = a_1 * W_l f_s^l + a_2 * up(r_(l+1)),   (a_1, a_2) = sigmoid(conv of the two)
HCL(f, g) = sum_k w_k mean (pool_k(f) - pool_k(g))^2 / sum_k w_k,   sizes k = H, 4, 2, 1 with w = 1, 1/2, 1/4, 1/8
"""
import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.epochs import EpochCounter
from distiller_zoo.method import LossWeights, Method
from flags import Option, number
from losses import Loss
from models.base import conv1x1, conv3x3
from models.norm import BatchNorm2d

WIDEST = 512  # maximum of the channels between the two convolutions of a fusion
PYRAMID = (4, 2, 1)  # sizes of the average-pooled maps


class HCL(Loss):
    """Hierarchical context loss: mean squared differences of the maps and of their average-pooled versions.

    A pooled size that is not smaller than the map's height is skipped together with its weight, as published.

    Shapes: maps_s, maps_t lists of (B, C, H, W), equal in shape -> () loss, summed over the maps.
    """

    def forward(self, maps_s, maps_t):
        return sum(self._layer(f_s - f_t.detach()) for f_s, f_t in zip(maps_s, maps_t, strict=True))

    @staticmethod
    def _layer(difference):
        # An average is linear: the difference of two averages is the average of the difference.
        gaps = [difference, *(F.adaptive_avg_pool2d(difference, size)
                              for size in PYRAMID if size < difference.shape[2])]
        weights = [0.5**k for k in range(len(gaps))]
        return sum(weight * g.square().mean() for weight, g in zip(weights, gaps, strict=True)) / sum(weights)


class ABF(nn.Module):
    """Attention-based fusion of a student's map with the fused map of the deeper stages.

    Args:
        c_s, c_mid, c_t: channels of the student's map, of the fused map and of the teacher's map.
        fuse: False for the deepest map, which has no deeper one to fuse with.

    Shapes: f_s (B, c_s, H, W), size = (H_t, W_t), deeper (B, c_mid, any size) or None
        -> map (B, c_t, H_t, W_t) to compare with the teacher's, fused map (B, c_mid, H_t, W_t).
    """

    def __init__(self, c_s, c_mid, c_t, fuse):
        super().__init__()
        self.reduce = nn.Sequential(conv1x1(c_s, c_mid), BatchNorm2d(c_mid))
        self.expand = nn.Sequential(conv3x3(c_mid, c_t), BatchNorm2d(c_t))
        self.attention = nn.Sequential(nn.Conv2d(2 * c_mid, 2, 1), nn.Sigmoid()) if fuse else None
        for layers in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(layers[0].weight, a=1)

    def forward(self, f_s, size, deeper=None):
        f = self.reduce(f_s)
        if deeper is not None:
            deeper = F.interpolate(deeper, f.shape[-2:])
            share = self.attention(torch.cat([f, deeper], 1))  # (B, 2, H, W)
            f = share[:, :1] * f + share[:, 1:] * deeper
        if f.shape[-2:] != size:
            f = F.interpolate(f, size)
        return self.expand(f), f


class ReviewKDMethod(Method):
    """Each stage of the teacher, and its embedding as a 1x1 map, teaches the student's stages of that depth and deeper.

    Stages are paired from the deepest one; if one network has more stages, its shallowest are ignored. Both networks'
    maps are Features.maps, after the ReLU that ends a stage where there is one. The authors' code takes the teacher's
    maps before the ReLU, which they call unintended (github.com/JIA-Lab-research/ReviewKD/issues/11).

    The loss rises linearly over the first epochs, as published: in epoch e it is multiplied by e / --warmup_epochs. An
    epoch is opt.n_data images seen.

    A step takes more than twice as long as kd's for a small student (results/speed.md): the fusions' 3x3 convolutions,
    from the deepest stage's width to the teacher's at every resolution, need 18 million multiplications; resnet8 needs
    13 million.
    """

    weights = LossWeights(1.0, 0.0, 5.0, "the authors' default; theirs for resnet20 0.6, resnet32 1, ShuffleV2 8")
    options = (Option(("--warmup_epochs",), {"type": number(int, at_least=0), "default": 20, "metavar": "N",
                                             "help": "reviewkd: epochs over which its loss rises to its full weight"}),)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.n_stages = min(len(self.s_shapes), len(self.t_shapes)) - 2  # neither stem nor embedding
        s_channels, t_channels = ([shape[0] for shape in shapes[-self.n_stages - 1 :]]
                                  for shapes in (self.s_shapes, self.t_shapes))
        c_mid = min(WIDEST, s_channels[-1])
        last = self.n_stages
        self.fusions = nn.ModuleList(ABF(c_s, c_mid, c_t, fuse=i < last)
                                     for i, (c_s, c_t) in enumerate(zip(s_channels, t_channels, strict=True)))
        self.loss = HCL()
        self.epoch, self.warmup_epochs = EpochCounter(opt.n_data), opt.warmup_epochs

    def forward(self, s, t, batch):
        maps_s, maps_t = self._reviewed(s), self._reviewed(t)
        outputs, deeper = [], None
        for fusion, f_s, f_t in zip(reversed(self.fusions), reversed(maps_s), reversed(maps_t), strict=True):
            output, deeper = fusion(f_s, f_t.shape[-2:], deeper)
            outputs.insert(0, output)
        return self._warmup(len(maps_s[0])) * self.loss(outputs, maps_t)

    def _reviewed(self, features):
        return [*features.maps[-self.n_stages :], features.embedding[:, :, None, None]]  # (B, D) -> (B, D, 1, 1)

    def _warmup(self, images):
        """Factor of the loss: a number, or a tensor () on the device, which needs no synchronisation."""
        if not (self.warmup_epochs and self.training):
            return 1.0
        return (self.epoch(images) / self.warmup_epochs).clamp_max(1.0)
