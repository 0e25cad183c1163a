"""Distilling the Knowledge in a Neural Network. Hinton, Vinyals, Dean. NIPS workshop 2014, arXiv 1503.02531.

L = T^2 / B * sum_{b,c} p_t (log p_t - log p_s),   p = softmax(z / T)
"""
import torch.nn.functional as F

from distiller_zoo.method import LossWeights, Method
from losses import Loss


class DistillKL(Loss):
    """KL divergence of the student's probabilities from the teacher's, both at temperature T.

    T^2 keeps the gradient's size independent of T.

    Shapes: z_s, z_t (B, K) logits -> () loss, averaged over the batch.
    """

    def __init__(self, T=4.0):
        super().__init__()
        self.T = T

    def forward(self, z_s, z_t):
        log_p_s = F.log_softmax(z_s / self.T, dim=1)
        log_p_t = F.log_softmax(z_t / self.T, dim=1)
        # log_target: p_t = 0 with log p_t = -2e4 gives a finite loss; p_t * log(p_t) would be nan
        return self.T**2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)


class KDMethod(Method):
    """The KL term on the logits and nothing else. The objective computes that term for every method with an alpha."""

    weights = LossWeights(0.1, 0.9, 0.0, "RepDistiller, scripts/run_cifar_distill.sh; SimKD's toolbox uses 1, 1, 0")

    reads = None
