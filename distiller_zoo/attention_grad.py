"""Paying More Attention to Attention. Zagoruyko, Komodakis. ICLR 2017, arXiv 1612.03928. Gradient-based.

L = 1 / (2 B) * sum_b ||J_s - J_t||_2,   J = dCE(z, y) / dx for each image x
"""
import torch
import torch.nn.functional as F

from distiller_zoo.method import LossWeights, Method
from losses import Loss
from models.features import Reads


class GradientAttention(Loss):
    """Half the distance between the two networks' input gradients, averaged over the batch; its gradient at 0 is 0.

    Shapes: J_s, J_t (B, ...) -> () loss.
    """

    def forward(self, J_s, J_t):
        return torch.linalg.vector_norm((J_s - J_t.detach()).flatten(1), dim=1).mean() / 2


class AttentionGradMethod(Method):
    """Which pixels the student's cross-entropy hangs on, turned to those of the teacher's.

    A step costs about six of kd's on a CPU (results/speed.md): the student's backward pass is itself differentiated,
    and the teacher keeps a graph and is run backwards to the pixels.
    """

    # The paper's beta multiplies the same half norm, but no value of it is known to us. With 1 the term has the size of
    # cross-entropy: on digits, from resnet14 to resnet8, it stays at 0.26 to 0.28 while that falls from 2.2 to 0.3.
    weights = LossWeights(1.0, 0.0, 1.0, "ours: none is published with certainty")
    reads = Reads(input_gradient=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = GradientAttention()

    def forward(self, s, t, batch):
        J_s = input_gradient(s.logits, batch, create_graph=True)
        J_t = input_gradient(t.logits, batch, retain_graph=True)  # the KL term may go back through the same graph
        return self.loss(J_s, J_t)


def input_gradient(logits, batch, **settings):
    """J (B, 3, H, W): the gradient of each image's own cross-entropy, so not divided by the batch size."""
    loss = F.cross_entropy(logits.float(), batch.target, reduction="sum")
    (J,) = torch.autograd.grad(loss, batch.images, **settings)
    return J
