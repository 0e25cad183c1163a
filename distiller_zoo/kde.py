"""It's All in the Head. Ben-Baruch et al. 2022, arXiv 2201.06945: direct matching of embeddings, their baseline.

L = sum_b || e_s / ||e_s|| - e_t / ||e_t|| ||^2
"""
from torch import nn

from distiller_zoo.method import LossWeights, Method
from distiller_zoo.options import TH_ADAPTER
from losses import Loss, unit
from models.shared_head import check_widths


class KDE(Loss):
    """Squared distance of the two embeddings, each scaled to unit length, summed over the batch.

    The sum is the published loss, so published betas keep their meaning. It grows with the batch: if you multiply
    --batch_size by a factor, divide beta by the same factor.

    Shapes: e_s, e_t (B, D) -> () loss.
    """

    def forward(self, e_s, e_t):
        return (unit(e_s, dim=1) - unit(e_t.detach(), dim=1)).square().sum()


class KDEMethod(Method):
    """The student's embedding is matched to the teacher's, through a trained linear layer where the widths differ.

    Raises:
        UsageError: the widths differ and --th_adapter is none.
    """

    # At batch 64 the sum is about 60 to 100 for unrelated networks; with 0.02 it is of the order of the cross-entropy.
    weights = LossWeights(1.0, 1.0, 0.02, "ours: none is published")
    options = (TH_ADAPTER,)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        (s_dim,), (t_dim,) = self.s_shapes[-1], self.t_shapes[-1]
        check_widths(s_dim, t_dim, opt.th_adapter, "the teacher's embedding has", "the student's")
        self.adapter = nn.Identity() if s_dim == t_dim else nn.Linear(s_dim, t_dim)
        self.loss = KDE()

    def forward(self, s, t, batch):
        return self.loss(self.adapter(s.embedding), t.embedding)
