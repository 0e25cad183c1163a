"""Self-supervised Knowledge Distillation Using SVD. Lee, Kim, Song. ECCV 2018, arXiv 1807.06819.

L = 1/B * sum_{l>0} sum (R_s - R_t)^2,   R = exp(-(v_{l,c} - v_{l-1,c'})^2 / 8),
v: right singular vectors of f as (HW, C)
"""
from itertools import pairwise

import torch

from distiller_zoo.method import LossWeights, Method
from errors import UsageError
from losses import SHORTEST, Loss, unit
from models.features import Reads

SPARE = 3  # each vector of the teacher is compared with this many more vectors of the student than k


class KDSVD(Loss):
    """Squared difference of the relations R between leading singular vectors of consecutive maps, summed over pairs.

    A singular vector is defined up to its sign. The published loss uses the sign that the linear algebra library
    returns, so its value (0.127 or 0.015 in one case) and gradient depend on the machine; here each vector is signed so
    that its components' sum is not negative. The published gradient is NaN for equal singular values, and so for a zero
    map; here the gradient is finite.

    Args:
        k: number of singular vectors of each of the teacher's maps.

    Shapes: maps_s, maps_t lists of (B, C, H, W) with equal channels; sizes may differ -> () loss. If one list is
    longer, its last maps are ignored.
    """

    def __init__(self, k=1):
        super().__init__()
        self.k = k

    def forward(self, maps_s, maps_t):
        vectors = [self._aligned(f_s, f_t.detach()) for f_s, f_t in zip(maps_s, maps_t, strict=False)]
        losses = [(_relation(v_s, below_s) - _relation(v_t, below_t)).square().sum()
                  for (below_s, below_t), (v_s, v_t) in pairwise(vectors)]
        return sum(losses) / len(maps_s[0])  # the sum over channels is the published scale

    def _aligned(self, f_s, f_t):
        """v_s, v_t (B, C, k): the teacher's vectors, and for each the student's nearest, with the same orientation.

        Both are multiplied by the teacher's singular values, normalised to unit length: by 1 when k is 1.
        """
        v_t, singular_t = leading_vectors(_rows(f_t), self.k)
        v_s, _ = leading_vectors(_rows(f_s), self.k + SPARE)
        cosine = v_s.detach().mT @ v_t  # (B, k + 3, k)
        nearest = cosine.abs().argmax(1, keepdim=True)  # (B, 1, k)
        v_s = v_s.gather(2, nearest.expand(-1, v_s.shape[1], -1)) * cosine.gather(1, nearest).sign()
        scale = unit(singular_t, dim=1)[:, None]  # (B, 1, k)
        return v_s * scale, v_t * scale


def _rows(f):
    return f.flatten(2).mT  # (B, C, H, W) -> (B, HW, C)


def _relation(v, below):
    """R of the vectors of two consecutive maps: (B, C, k), (B, C', k) -> (B, C, C', k)."""
    return torch.exp(-(v[:, :, None] - below[:, None]).square() / 8)


def leading_vectors(x, k):
    """The right singular vectors of the k largest singular values (of all min(N, C) if k is larger), and these values.

    They come from an eigendecomposition of G, which is x^T x or x x^T, whichever is smaller. Autograd does not see it,
    because its gradient divides by the gaps between all eigenvalues. Instead, the first-order change of an eigenvector
    u of G, du = sum_i u_i <u_i, dG u> / (lambda - lambda_i), is added with dG = G - G.detach(), which is zero but has a
    gradient.

    Shapes: x (B, N, C) -> vectors (B, C, k), each with a component sum that is not negative; singular values (B, k) of
    x / ||x||, largest first, without a gradient.
    """
    # The vectors do not depend on x's scale. At unit length the eigenvalues add up to 1 and cannot overflow.
    x = x / torch.linalg.vector_norm(x.detach(), dim=(1, 2), keepdim=True).clamp_min(SHORTEST)
    wide = x.shape[1] < x.shape[2]
    a = x.mT if wide else x  # (B, R, r), r the smaller side
    with torch.no_grad():
        gram = (a.mT @ a).nan_to_num()  # eigh raises for NaN; `change` keeps NaN, and a loss of NaN stops the run
        eigenvalues, basis = torch.linalg.eigh(gram)  # (B, r) rising, (B, r, r)
        leading = eigenvalues[:, -k:].flip(1)  # (B, k)
        gap = leading[:, None, :] - eigenvalues[:, :, None]  # (B, r, k)
        blur = 100 * torch.finfo(x.dtype).eps  # an eigenvalue gap this small is rounding; it bounds the gradient
        inverse_gap = gap / (gap.square() + blur**2)
    u = basis[:, :, -k:].flip(2)  # (B, r, k)
    change = a.mT @ (a @ u)  # G u
    u = u + basis @ (inverse_gap * (basis.mT @ (change - change.detach())))
    v = unit(a @ u, dim=1) if wide else u  # (B, C, k)
    flip = torch.where(v.detach().sum(1, keepdim=True) < 0, -1.0, 1.0)
    return v * flip, leading.clamp_min(0).sqrt()


class KDSVDMethod(Method):
    """Relates the leading singular vector of each stage's map to that of the stage before; matches the relations.

    A step takes twice as long as kd's for a small student on a CPU (results/speed.md): LAPACK decomposes the Gram
    matrix of every image, stage and network, one after the other.

    Raises:
        UsageError: a network has fewer than two stage maps, or the channels of the stage maps differ.
    """

    # RepDistiller gives no weight. With 1 the term is 0.1 to 0.3 for untrained networks of 100 classes.
    weights = LossWeights(1.0, 0.0, 1.0, "ours: none is published")
    reads = Reads(maps=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        s_maps, t_maps = self.s_shapes[1:-1], self.t_shapes[1:-1]
        pairs = list(zip(s_maps, t_maps, strict=False))
        if len(pairs) < 2:
            raise UsageError(f"kdsvd: needs two stage maps of each network, the student has {s_maps} and the teacher "
                             f"{t_maps}: use networks of more stages")
        if any(f_s[0] != f_t[0] for f_s, f_t in pairs):
            raise UsageError(f"kdsvd: stage maps {s_maps} (student) and {t_maps} (teacher) have unequal channels: use "
                             "two networks of one family and width, such as resnet56 and resnet20, resnet32x4 and "
                             "resnet8x4, wrn_40_2 and wrn_16_2, vgg13 and vgg8")
        self.loss = KDSVD()

    def forward(self, s, t, batch):
        return self.loss(s.maps, t.maps)
