"""Learning Deep Representations with Probabilistic Knowledge Transfer. Passalis, Tefas. ECCV 2018, arXiv 1803.10837.

L = 1 / B^2 * sum_{i,j} P_t ln((P_t + eps) / (P_s + eps)),   P = S with rows divided by their sum,
S_ij = (1 + cos(x_i, x_j)) / 2,   eps = 1e-7
"""
import torch

from distiller_zoo.method import LossWeights, Method
from losses import Loss

EPS = 1e-7


class PKT(Loss):
    """KL divergence between the networks' conditional neighbour probabilities of the samples of a batch.

    The loss is the mean over B^2 entries instead of the sum over rows, as in the published code; hence a beta of 30000.

    Shapes: f_s (B, ...), f_t (B, ...), of any sizes -> () loss.
    """

    def forward(self, f_s, f_t):
        p_s, p_t = _neighbours(f_s), _neighbours(f_t.detach())
        return (p_t * ((p_t + EPS) / (p_s + EPS)).log()).mean()


def _neighbours(f):
    """P, the similarity matrix with rows divided by their sum: (B, ...) -> (B, B)."""
    x = f.flatten(1)  # (B, ...) -> (B, D)
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPS)
    likeness = ((x @ x.mT + 1) / 2).clamp_min(0)  # (B, B); rounding may take a cosine below -1
    return likeness / likeness.sum(1, keepdim=True)  # each sum is positive: the diagonal is 1


class PKTMethod(Method):
    """The neighbour probabilities of the student's embeddings are matched to the teacher's. Widths may differ; nothing
    is projected."""

    weights = LossWeights(1.0, 0.0, 30000.0, "RepDistiller, scripts/run_cifar_distill.sh")

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = PKT()

    def forward(self, s, t, batch):
        return self.loss(s.embedding, t.embedding)
