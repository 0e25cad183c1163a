"""Similarity-Preserving Knowledge Distillation. Tung, Mori. ICCV 2019, arXiv 1907.09682.

L = 1 / B^2 * sum_{i,j} (G_s - G_t)^2,   G = F F^T with rows divided by their length,   F = f as (B, CHW)
"""
from distiller_zoo.method import LossWeights, Method
from losses import Loss, unit
from models.features import Reads


class Similarity(Loss):
    """Mean squared difference of the two networks' similarity matrices of a batch.

    For a batch of one sample the loss is 0.

    Shapes: f_s (B, ...), f_t (B, ...), of any sizes -> () loss.
    """

    def forward(self, f_s, f_t):
        return (self._table(f_s) - self._table(f_t).detach()).square().mean()

    @staticmethod
    def _table(f):
        """The similarity matrix G: (B, ...) -> (B, B)."""
        rows = f.flatten(1)  # (B, C, H, W) -> (B, CHW), whatever the memory format
        return unit(rows @ rows.T, dim=1)  # (B, B)


class SimilarityMethod(Method):
    """The similarity matrix of the student's last map is matched to the teacher's."""

    weights = LossWeights(1.0, 0.0, 3000.0, "RepDistiller, scripts/run_cifar_distill.sh")
    reads = Reads(maps=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = Similarity()

    def forward(self, s, t, batch):
        return self.loss(s.maps[-1], t.maps[-1])
