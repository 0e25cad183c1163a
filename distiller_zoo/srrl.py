"""Knowledge Distillation via Softmax Regression Representation Learning. Yang et al. ICLR 2021.

L = 1 / (B D) * ||h - e_t||^2 + 1 / (B K) * ||W_t h + b_t - z_t||^2,   h = ReLU(BN(W e_s)),   W_t, b_t frozen
"""
from copy import deepcopy

import torch.nn.functional as F
from torch import nn

from distiller_zoo.method import LossWeights, Method
from losses import Loss
from models import get_classifier
from models.base import conv1x1
from models.norm import BatchNorm2d


class SRRL(Loss):
    """Mean squared differences of the embeddings, and of the logits that the teacher's classifier gives for them.

    Args:
        s_dim, t_dim: widths of the two embeddings.
        classifier: the teacher's nn.Linear. The loss keeps a frozen copy, which passes the gradient to the student.

    Shapes: f_s (B, s_dim), f_t (B, t_dim) embeddings, z_t (B, K) logits -> () loss.
    """

    def __init__(self, s_dim, t_dim, classifier):
        super().__init__()
        self.transfer = nn.Sequential(conv1x1(s_dim, t_dim), BatchNorm2d(t_dim), nn.ReLU())
        self.classifier = deepcopy(classifier).requires_grad_(False)

    def forward(self, f_s, f_t, z_t):
        h = self.transfer(f_s[:, :, None, None]).flatten(1)  # (B, t_dim)
        return F.mse_loss(h, f_t.detach()) + F.mse_loss(self.classifier(h), z_t.detach())


class SRRLMethod(Method):
    """The student's embedding, and the teacher's classifier's logits for it, are matched to the teacher's."""

    weights = LossWeights(1.0, 1.0, 1.0, "SimKD's toolbox, scripts/run_distill.sh")

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        (s_dim,), (t_dim,) = self.s_shapes[-1], self.t_shapes[-1]
        self.loss = SRRL(s_dim, t_dim, get_classifier(teacher))

    def forward(self, s, t, batch):
        return self.loss(s.embedding, t.embedding, t.logits)
