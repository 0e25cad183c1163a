"""Variational Information Distillation for Knowledge Transfer. Ahn et al. CVPR 2019, arXiv 1904.05835.

L = sum_l 1 / (B C H W) * sum 1/2 [(mu(f_s) - f_t)^2 / sigma_c^2 + ln sigma_c^2],   sigma_c^2 = softplus(a_c) + eps
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.method import LossWeights, Method
from losses import Loss, pool_to_match
from models.base import conv1x1
from models.features import Reads


class VIDLoss(Loss):
    """Negative log-likelihood of the teacher's map under a Gaussian whose mean is regressed from the student's map.

    Three 1x1 convolutions give the mean; the variance is one trained number per channel. The constant ln(2 pi) / 2 is
    omitted. The loss may be negative.

    Args:
        c_s, c_mid, c_t: channels of the student's map, between the convolutions, and of the teacher's map.
        init_pred_var: initial variance.
        eps: smallest variance.

    Shapes: f_s (B, c_s, H_s, W_s), f_t (B, c_t, H_t, W_t) -> () loss. The larger map is average-pooled.
    """

    def __init__(self, c_s, c_mid, c_t, init_pred_var=5.0, eps=1e-5):
        super().__init__()
        self.regressor = nn.Sequential(conv1x1(c_s, c_mid), nn.ReLU(), conv1x1(c_mid, c_mid), nn.ReLU(),
                                       conv1x1(c_mid, c_t))
        self.log_scale = nn.Parameter(torch.full((c_t,), math.log(math.expm1(init_pred_var - eps))))
        self.eps = eps

    def forward(self, f_s, f_t):
        f_s, f_t = pool_to_match(f_s, f_t.detach())
        mean = self.regressor(f_s)
        variance = (F.softplus(self.log_scale) + self.eps)[:, None, None]  # (C, 1, 1)
        return 0.5 * ((mean - f_t).square() / variance + variance.log()).mean()


class VIDMethod(Method):
    """Maximises a lower bound of the mutual information between the student's and the teacher's stage maps."""

    weights = LossWeights(1.0, 0.0, 1.0, "RepDistiller, scripts/run_cifar_distill.sh; SimKD's toolbox uses 1, 1, 1")
    reads = Reads(maps=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        # Stages are paired from the shallowest one; if one network has more, its deepest are ignored, as published.
        pairs = zip(self.s_shapes[1:-1], self.t_shapes[1:-1], strict=False)
        self.losses = nn.ModuleList(VIDLoss(s_shape[0], t_shape[0], t_shape[0]) for s_shape, t_shape in pairs)

    def forward(self, s, t, batch):
        return sum(loss(f_s, f_t) for loss, f_s, f_t in zip(self.losses, s.maps, t.maps, strict=False))
