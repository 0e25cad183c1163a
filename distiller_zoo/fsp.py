"""A Gift from Knowledge Distillation: flow of the solution procedure (FSP). Yim, Joo, Bae, Kim. CVPR 2017.

L = sum_l 1 / (B C C') * sum (G_s - G_t)^2,   G = 1 / (H W) * sum_hw f_{l+1,c} f_{l,c'}
"""
from itertools import pairwise

from distiller_zoo.method import LossWeights, Method, Stage
from distiller_zoo.options import INIT_EPOCHS
from errors import UsageError
from losses import Loss, pool_to_match


class FSP(Loss):
    """Mean squared difference of the flow matrices, summed over the pairs of consecutive maps.

    The scale is RepDistiller's; the paper's squared Frobenius norm per sample is C C' times as large.

    Shapes: maps_s, maps_t lists of (B, C, H, W) with equal channels; sizes may differ -> () loss.
    """

    def forward(self, maps_s, maps_t):
        steps = zip(pairwise(maps_s), pairwise(maps_t), strict=True)
        return sum((_flow(*step_s) - _flow(*step_t).detach()).square().mean() for step_s, step_t in steps)


def _flow(bottom, top):
    """The flow matrix, the mean over positions of products of channels: (B, C', H', W'), (B, C, H, W) -> (B, C, C')."""
    bottom, top = (f.flatten(2) for f in pool_to_match(bottom, top))
    return top @ bottom.mT / top.shape[2]  # a batched product: never (B, C, C', HW)


class FSPMethod(Method):
    """A first stage matches the student's flow matrices to the teacher's; the main stage uses cross-entropy (and KL).

    As published, the first stage only initialises the student: beta multiplies nothing in the main stage, and the first
    stage's loss has no weight.

    Raises:
        UsageError: the channels of the two networks' maps differ.
    """

    weights = LossWeights(1.0, 0.0, 50.0, "RepDistiller, scripts/run_cifar_distill.sh, where beta multiplies 0 too")
    options = (INIT_EPOCHS,)
    reads = None

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        s_channels, t_channels = ([shape[0] for shape in shapes[:-1]] for shapes in (self.s_shapes, self.t_shapes))
        if s_channels != t_channels:
            raise UsageError(f"fsp: flow matrices of channels {s_channels} (student) and {t_channels} (teacher) cannot "
                             "be compared: use two networks of one family and width, such as resnet56 and resnet20, "
                             "resnet32x4 and resnet8x4, wrn_40_2 and wrn_16_2, vgg13 and vgg8")
        self.loss = FSP()
        self.schedule = opt.init_epochs, opt.learning_rate

    def stages(self):
        return [Stage(*self.schedule, self._flow)]

    def _flow(self, s, t, batch):
        return self.loss(s.feats[:-1], t.feats[:-1])
