"""Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. Huang, Wang. 2017, arXiv 1707.01219.

L = sum_l mean_b [mean_{c,c'} k(x_t, x_t') + mean_{c,c'} k(x_s, x_s') - 2 mean_{c,c'} k(x_s, x_t')],
x = f_c / ||f_c||_2 over hw,   k(x, y) = <x, y> (linear), <x, y>^2 (poly), exp(-||x - y||^2 / (2 sigma^2)) (gauss)
"""
import torch

from distiller_zoo.method import LossWeights, Method
from flags import Option
from losses import SHORTEST, Loss, pool_to_match, unit
from models.features import Reads


class NSTLoss(Loss):
    """Squared maximum mean discrepancy between the student's and the teacher's channels, summed over the layers.

    It is computed per sample and averaged over the batch. One batched matrix product gives the products of all pairs of
    channels, without a tensor (B, C, C', HW).

    Args:
        kernel: linear, poly (degree 2, no constant) or gauss.
        sigma2: sigma^2 of the Gaussian kernel. None takes the mean squared distance between the student's and the
            teacher's channels in the batch, without a gradient, as in the paper.

    Shapes: maps_s, maps_t lists of (B, C, H, W), of any channels and sizes -> () loss. If one list is longer, its last
    maps are ignored.
    """

    def __init__(self, kernel="poly", sigma2=None):
        super().__init__()
        self.mmd = {"linear": _linear, "poly": _poly, "gauss": _gauss}[kernel]
        self.settings = {"sigma2": sigma2} if kernel == "gauss" else {}

    def forward(self, maps_s, maps_t):
        return sum(self._layer(*pool_to_match(f_s, f_t)) for f_s, f_t in zip(maps_s, maps_t, strict=False))

    def _layer(self, f_s, f_t):
        return self.mmd(f_s.flatten(2), f_t.detach().flatten(2), **self.settings)  # (B, C, H, W) -> (B, C, HW)


def _linear(f_s, f_t):
    x_s, x_t = unit(f_s, dim=2), unit(f_t, dim=2)
    return (x_s.mean(1) - x_t.mean(1)).square().sum(1).mean()  # the mean over pairs is the product of the means


def _poly(f_s, f_t):
    (c_s, positions), c_t = f_s.shape[1:], f_t.shape[1]
    if positions**2 > c_s * c_t:
        ss, tt, st = _cosines(f_s, f_t)
        return tt.square().mean() + ss.square().mean() - 2 * st.square().mean()
    # The same number from matrices of positions: 16 x 16 instead of 2048 x 2048 for the last stage of ResNet50.
    x_s, x_t = unit(f_s, dim=2), unit(f_t, dim=2)
    difference = _gram(x_s.mT, x_s.mT) / c_s - _gram(x_t.mT, x_t.mT) / c_t  # (B, HW, HW)
    return difference.square().sum((1, 2)).mean()


def _gauss(f_s, f_t, sigma2):
    ss, tt, st = _cosines(f_s, f_t)
    squares_s, squares_t = (cosines.diagonal(dim1=1, dim2=2) for cosines in (ss, tt))  # 1; 0 for dead channels
    d_st = _squared_distances(squares_s, squares_t, st)
    if sigma2 is None:
        sigma2 = d_st.detach().mean().clamp_min(1e-12)  # 0 only if all channels of both are equal

    def kernel(distances):
        return torch.exp(-distances / (2 * sigma2)).mean()

    return (kernel(_squared_distances(squares_t, squares_t, tt)) + kernel(_squared_distances(squares_s, squares_s, ss))
            - 2 * kernel(d_st))


def _squared_distances(squares_x, squares_y, cosines):
    return squares_x[:, :, None] + squares_y[:, None, :] - 2 * cosines  # (B, C, C')


def _gram(x, y):
    return x @ y.mT  # (B, C, HW), (B, C', HW) -> (B, C, C')


def _cosines(f_s, f_t):
    """Cosines between channels: student with student, teacher with teacher, student with teacher, (B, C, C') each.

    A dead channel has cosine 0 and gets no gradient. The division by the lengths acts on these matrices, which are
    smaller than the maps.
    """
    ss, tt, st = _gram(f_s, f_s), _gram(f_t, f_t), _gram(f_s, f_t)
    by_s, by_t = _inverse_lengths(ss), _inverse_lengths(tt)
    return (ss * by_s[:, :, None] * by_s[:, None, :], tt * by_t[:, :, None] * by_t[:, None, :],
            st * by_s[:, :, None] * by_t[:, None, :])


def _inverse_lengths(gram):
    squares = gram.diagonal(dim1=1, dim2=2)  # (B, C)
    return squares.masked_fill(squares < SHORTEST**2, torch.inf).rsqrt()


class NSTMethod(Method):
    """The distribution of the student's channels (their activation patterns) is matched to the teacher's, per stage."""

    weights = LossWeights(1.0, 0.0, 50.0, "RepDistiller, scripts/run_cifar_distill.sh; the paper: 50, gauss 100")
    options = (Option(("--nst_kernel",), {"choices": ["linear", "poly", "gauss"], "default": "poly",
                                          "help": "nst: kernel between channels; published beta 50, 50, 100"}),)
    reads = Reads(maps=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = NSTLoss(opt.nst_kernel)

    def forward(self, s, t, batch):
        return self.loss(s.maps, t.maps)
