"""Mean squared error between probabilities, as in HeadSharingKD (Ben-Baruch et al. 2022, arXiv 2201.06945).

L = 1 / (B K) * sum_{b,c} (p_s - p_t)^2,   p = softmax(z)
"""
import torch.nn.functional as F

from distiller_zoo.method import LossWeights, Method
from losses import Loss
from models.features import Reads


class DistillMSE(Loss):
    """Mean squared difference of the probabilities, without temperature.

    Shapes: z_s, z_t (B, K) logits -> () loss, averaged over batch and classes.
    """

    def forward(self, z_s, z_t):
        return F.mse_loss(F.softmax(z_s, dim=1), F.softmax(z_t, dim=1))


class KDMSEMethod(Method):
    """The student's probabilities are matched to the teacher's by their mean squared difference."""

    # HeadSharingKD gives no weight. With 100 classes, weight 100 makes the term the squared distance per sample, of the
    # order of a cross-entropy; the mean over 100 classes alone would be a hundred times weaker.
    weights = LossWeights(1.0, 0.0, 100.0, "ours: none is published")
    reads = Reads(logits=True)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.mse = DistillMSE()

    def forward(self, s, t, batch):
        return self.mse(s.logits, t.logits)
