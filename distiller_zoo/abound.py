"""Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons. AAAI 2019, arXiv 1811.03233.

Heo, Lee, Yun, Choi.

L = 3/1000 * sum_l 2^(l-n) / B * sum max(0, m - sign(f_t) f_s)^2,   l = 1 ... n, sign(0) = -1, f before the ReLU
"""
import torch
from torch import nn

from distiller_zoo.hint import ConvReg
from distiller_zoo.method import LossWeights, Method, Stage
from distiller_zoo.options import INIT_EPOCHS
from errors import UsageError
from losses import Loss, pool_to_match
from models.features import Reads
from models.probe import on_meta, unwrap

SCALE = 3 / 1000  # RepDistiller's, so that the usual learning rate suits the first stage


class ABLoss(Loss):
    """Squared hinge loss between the student's activations and the signs of the teacher's.

    The loss is summed over the elements of a map and over the maps, and averaged over the batch. The deepest map has
    weight 1; each shallower map has half the weight of the next deeper one.

    Args:
        n_maps: number of maps.
        margin: m, the distance from zero that the student's activations must reach.

    Shapes: maps_s, maps_t lists of n_maps maps (B, C, H, W) before the ReLU -> () loss. C is equal in both; sizes may
    differ, and the larger map is average-pooled.
    """

    def __init__(self, n_maps, margin=1.0):
        super().__init__()
        self.weights = [2.0 ** (i - n_maps + 1) for i in range(n_maps)]
        self.margin = margin

    def forward(self, maps_s, maps_t):
        losses = [self._layer(*pool_to_match(f_s, f_t)) for f_s, f_t in zip(maps_s, maps_t, strict=True)]
        return SCALE * sum(weight * loss for weight, loss in zip(self.weights, losses, strict=True))

    def _layer(self, f_s, f_t):
        side = torch.where(f_t > 0, 1.0, -1.0)
        return (self.margin - side * f_s).relu().square().sum() / len(f_s)


class Connector(nn.Module):
    """Maps the student's maps to the teacher's channels.

    A map whose channels and height equal the teacher's is unchanged. Every other map passes a ConvReg without ReLU.

    Args:
        s_shapes, t_shapes: lists of (C, H, W) or (B, C, H, W), one per map.

    Shapes: maps_s list of (B, C_s, H_s, W_s) -> list of (B, C_t, H, W), with the size that ConvReg gives.
    """

    def __init__(self, s_shapes, t_shapes):
        super().__init__()
        pairs = [(tuple(s[-3:]), tuple(t[-3:])) for s, t in zip(s_shapes, t_shapes, strict=True)]
        self.connectors = nn.ModuleList(nn.Identity() if s[:2] == t[:2] else ConvReg(s, t, relu=False)
                                        for s, t in pairs)

    def forward(self, maps_s):
        return [connect(f_s) for connect, f_s in zip(self.connectors, maps_s, strict=True)]


class ABoundMethod(Method):
    """A first stage trains the student on ABLoss; the main stage uses cross-entropy (and KL) alone.

    As published, the first stage only initialises the student: beta multiplies nothing in the main stage, and the first
    stage's loss has no weight.

    Raises:
        UsageError: the networks have different numbers of stages, or one has no maps before the ReLU.
    """

    weights = LossWeights(1.0, 0.0, 1.0, "RepDistiller, scripts/run_cifar_distill.sh, where beta multiplies 0 too")
    options = (INIT_EPOCHS,)
    reads = None

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        s_maps, t_maps = self.s_shapes[1:-1], self.t_shapes[1:-1]
        if len(s_maps) != len(t_maps):
            raise UsageError(f"abound: the student has {len(s_maps)} stages {s_maps} and the teacher {len(t_maps)} "
                             f"{t_maps}: choose two networks with equally many (resnet, wrn, Shuffle: 3; vgg, "
                             "ResNet50, MobileNetV2: 4)")
        for network in (unwrap(student), unwrap(teacher)):  # here, not in the first step: some have no such maps
            images = torch.empty(2, 3, opt.image_size, opt.image_size, device="meta",
                                 dtype=next(network.parameters()).dtype)
            on_meta(network, images, is_feat=True, preact=True)
        self.connector = Connector(s_maps, t_maps)
        self.loss = ABLoss(len(s_maps))
        self.schedule = opt.init_epochs, opt.learning_rate

    def stages(self):
        return [Stage(*self.schedule, self._boundaries, Reads(preact=True), freeze=(self.connector,))]

    def _boundaries(self, s, t, batch):
        return self.loss(self.connector(s.maps), t.maps)
