"""Similarity-Preserving Knowledge Distillation. Tung, Mori. ICCV 2019, arXiv 1907.09682.

L = 1 / B^2 * sum_{i,j} (G_s - G_t)^2,   G = F F^T with rows divided by their length,   F = f as (B, CHW)
"""
from distiller_zoo.method import LossWeights, Method
from losses import Loss, unit
from models.features import Reads


class Similarity(Loss):
    """Squared difference of the two networks' tables of likeness between the samples of a batch.

    A batch of one is like itself in both: loss 0.

    Shapes: f_s (B, ...), f_t (B, ...), of any sizes -> () loss.
    """

    def forward(self, f_s, f_t):
        return (self._table(f_s) - self._table(f_t).detach()).square().mean()

    @staticmethod
    def _table(f):
        rows = f.flatten(1)  # (B, C, H, W) -> (B, CHW), whatever the memory format
        return unit(rows @ rows.T, dim=1)  # (B, B)


class SimilarityMethod(Method):
    """Samples that are alike in the teacher's last map are made alike in the student's."""

    weights = LossWeights(1.0, 0.0, 3000.0, "RepDistiller, scripts/run_cifar_distill.sh")
    reads = Reads(maps=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = Similarity()

    def forward(self, s, t, batch):
        return self.loss(s.maps[-1], t.maps[-1])
