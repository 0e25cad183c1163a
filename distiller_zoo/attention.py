"""Paying More Attention to Attention. Zagoruyko, Komodakis. ICLR 2017, arXiv 1612.03928. Activation-based.

L = sum_l 1 / (B H W) * sum_{b,hw} (q_s - q_t)^2,   q = a / ||a||_2 over hw,   a = 1/C * sum_c |f_c|^p
"""
from distiller_zoo.method import LossWeights, Method
from losses import Loss, pool_to_match, unit
from models.features import Reads


class Attention(Loss):
    """Squared difference of the normalised attention maps, averaged over batch and positions, summed over the layers.

    The paper uses the norm of the difference. Its authors' code uses the mean of the squares, and the published beta
    belongs to the code.

    Args:
        p: power of the activations.

    Shapes: maps_s, maps_t lists of (B, C, H, W), of any channels and sizes -> () loss. If one list is longer, its last
    maps are ignored.
    """

    def __init__(self, p=2):
        super().__init__()
        self.p = p

    def forward(self, maps_s, maps_t):
        return sum(self._layer(*pool_to_match(f_s, f_t)) for f_s, f_t in zip(maps_s, maps_t, strict=False))

    def _layer(self, f_s, f_t):
        return (self._map(f_s) - self._map(f_t).detach()).square().mean()

    def _map(self, f):
        powers = f.square() if self.p == 2 else f.abs().pow(self.p)
        return unit(powers.mean(1).flatten(1), dim=1)  # (B, C, H, W) -> (B, HW)


class AttentionMethod(Method):
    """The student's attention map of each stage is matched to the teacher's. A 1x1 map contributes 0."""

    weights = LossWeights(1.0, 0.0, 1000.0, "RepDistiller, scripts/run_cifar_distill.sh; the paper's 1e3")
    reads = Reads(maps=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = Attention()

    def forward(self, s, t, batch):
        return self.loss(s.maps, t.maps)
