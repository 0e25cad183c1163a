"""Correlation Congruence for Knowledge Distillation. Peng et al. ICCV 2019, arXiv 1904.01802.

L = 1 / (B - 1) * sum_{i<B} sum_d delta_{i,d} delta_{i+1,d},   delta = |W_s f_s - W_t f_t|
"""
from torch import nn

from distiller_zoo.method import LossWeights, Method
from distiller_zoo.options import FEAT_DIM
from losses import Loss


class Correlation(Loss):
    """Product of the differences |e_s - e_t| of consecutive samples, averaged over the batch.

    This is RepDistiller's version of the paper, to which the published numbers belong: only neighbours in the batch are
    related, and nothing is normalised. A batch of one sample has no neighbours: loss 0.

    Both arguments receive a gradient, because e_t comes from a linear layer that is trained too.

    Shapes: e_s, e_t (B, D) -> () loss.
    """

    def forward(self, e_s, e_t):
        delta = (e_s - e_t).abs()  # (B, D)
        return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)


class LinearEmbed(nn.Module):
    """A linear layer on flattened features. Shapes: x (B, ...) -> (B, dim_out)."""

    def __init__(self, dim_in, dim_out):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)

    def forward(self, x):
        return self.linear(x.flatten(1))


class CorrelationMethod(Method):
    """Trained linear layers embed student and teacher; Correlation compares the embeddings of neighbouring samples."""

    weights = LossWeights(1.0, 0.0, 0.02, "RepDistiller, scripts/run_cifar_distill.sh")
    options = (FEAT_DIM,)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        (s_dim,), (t_dim,) = self.s_shapes[-1], self.t_shapes[-1]
        self.embed_s = LinearEmbed(s_dim, opt.feat_dim)
        self.embed_t = LinearEmbed(t_dim, opt.feat_dim)
        self.loss = Correlation()

    def forward(self, s, t, batch):
        return self.loss(self.embed_s(s.embedding), self.embed_t(t.embedding))
