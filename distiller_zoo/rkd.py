"""Relational Knowledge Distillation. Park, Kim, Lu, Cho. CVPR 2019, arXiv 1904.05068.

L = w_d / B^2 * sum_{i,j} h(d_s - d_t) + w_a / B^3 * sum_{i,j,k} h(a_s - a_t),   h: Huber loss (smooth L1)
d_ij = ||x_i - x_j|| / mean of these over i != j,   a_ijk = <e_ij, e_ik>,   e_ij = (x_j - x_i) / ||x_j - x_i||
"""
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from distiller_zoo.method import LossWeights, Method
from losses import Loss, unit

SHORTEST = 1e-6  # distance of two equal samples, as published
CHUNK = 2**22  # elements of the largest tensor at a time: 16 MB in float32


class RKDLoss(Loss):
    """Distances between pairs of samples and angles in triples of samples are matched to the teacher's.

    Angles are compared in chunks of their first index. With more than one chunk they are recomputed in the backward
    pass: at B = 1024 all angles take 4 GB. A batch of one sample has neither distances nor angles: loss 0.

    Args:
        w_d, w_a: weights of the distances and of the angles.

    Shapes: f_s (B, ...), f_t (B, ...), of any sizes -> () loss.
    """

    def __init__(self, w_d=25, w_a=50):
        super().__init__()
        self.w_d, self.w_a = w_d, w_a

    def forward(self, f_s, f_t):
        x_s, x_t = f_s.flatten(1), f_t.detach().flatten(1)  # (B, D)
        return (self.w_d * F.smooth_l1_loss(_distances(x_s), _distances(x_t)) + self.w_a * _angle_loss(x_s, x_t))


def _distances(x):
    """Distances divided by their mean off the diagonal: (B, D) -> (B, B)."""
    # Not by |x|^2 + |y|^2 - 2xy: in float32 that gives equal samples a distance and a gradient of rounding errors.
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(SHORTEST)
    d = d.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)
    pairs = len(x) * (len(x) - 1)
    return d / (d.sum() / max(pairs, 1)).clamp_min(SHORTEST)  # the bound acts only for a batch of one


def _angle_loss(x_s, x_t):
    B = len(x_s)
    size = max(1, CHUNK // (B * max(B, x_s.shape[1], x_t.shape[1])))
    if size >= B:
        total = _angle_gap(x_s, x_t, slice(None))
    else:
        total = sum(checkpoint(_angle_gap, x_s, x_t, slice(i, i + size), use_reentrant=False, preserve_rng_state=False)
                    for i in range(0, B, size))
    return total / B**3


def _angle_gap(x_s, x_t, rows):
    return F.smooth_l1_loss(_angles(x_s, rows), _angles(x_t, rows), reduction="sum")


def _angles(x, rows):
    """Cosines of the angles at the samples `rows`, 0 where two samples are equal: (B, D) -> (rows, B, B)."""
    e = unit(x - x[rows, None], dim=2)  # (rows, B, D)
    return e @ e.mT


class RKDMethod(Method):
    """Distances and angles between the student's embeddings are matched to the teacher's. Widths may differ; nothing is
    projected."""

    weights = LossWeights(1.0, 0.0, 1.0, "RepDistiller, scripts/run_cifar_distill.sh; 25 and 50 inside are the paper's")

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = RKDLoss()

    def forward(self, s, t, batch):
        return self.loss(s.embedding, t.embedding)
