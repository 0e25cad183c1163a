"""Knowledge Distillation with the Reused Teacher Classifier. Chen et al. CVPR 2022, arXiv 2203.14001.

L = 1 / (B C H W) * sum (P(f_s) - f_t)^2,   P: 1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU
prediction = W_t avgpool(P(f_s)) + b_t,   f the last maps, W_t, b_t the teacher's classifier
"""
from copy import copy, deepcopy

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from distiller_zoo.base import Method, Option, Weights
from distiller_zoo.hint import HintLoss
from distiller_zoo.options import number
from distiller_zoo.pooling import pool_to_match
from errors import UsageError
from models import feature_shapes, get_classifier
from models.base import conv1x1, conv3x3
from models.norm import BatchNorm2d
from models.probe import unwrap


class SimKD(nn.Module):
    """The projector P, and the size at which the two maps meet: the smaller one's.

    Args:
        s_channels, t_channels: of the two maps.
        factor: what the teacher's channels are divided by between the projector's convolutions.

    Shapes: f_s (B, s_channels, H_s, W_s), f_t (B, t_channels, H_t, W_t) -> (projected, target), (B, t_channels, H, W).
    """

    def __init__(self, s_channels, t_channels, factor=2):
        super().__init__()
        width = t_channels // factor
        self.transfer = nn.Sequential(conv1x1(s_channels, width), BatchNorm2d(width), nn.ReLU(inplace=True),
                                      conv3x3(width, width), BatchNorm2d(width), nn.ReLU(inplace=True),
                                      conv1x1(width, t_channels), BatchNorm2d(t_channels), nn.ReLU(inplace=True))

    def forward(self, f_s, f_t):
        f_s, f_t = pool_to_match(f_s, f_t)
        return self.transfer(f_s), f_t.detach()


class Deployed(nn.Module):
    """What a student of SimKD is: its backbone, the projector, the teacher's classifier. Shares their tensors.

    The student's own classifier is not part of it, nor are layers that only that one reads (the last 1x1 convolution
    of MobileNetV2 and ShuffleV2): they are neither counted nor run nor exported.

    Args:
        t_size: (H, W) of the teacher's last map, to which a larger one of the student is pooled.
        image_size: of the images that the student is trained on, in pixels.

    Shapes: images (B, 3, H, W) -> logits (B, K).
    """

    def __init__(self, student, projector, classifier, t_size, image_size):
        super().__init__()
        self.student, self.projector, self.classifier = unwrap(student), projector, classifier
        self.t_size = t_size
        self.student = _without(self.student, _unused_parameters(self, image_size), "student.")

    def forward(self, images):
        f_s = self.student(images, is_feat=True)[0][-2]
        if tuple(f_s.shape[-2:]) > self.t_size:  # the rule of pool_to_match, without the teacher
            f_s = F.adaptive_avg_pool2d(f_s, self.t_size)
        return self.classifier(self.projector.transfer(f_s).mean((2, 3)))


def _unused_parameters(model, image_size):
    """Names of the parameters that model(images) does not depend on; found on the meta device, nothing is computed."""
    stand_ins = {name: torch.empty_like(p, device="meta").requires_grad_() for name, p in model.named_parameters()}
    buffers = {name: torch.empty_like(b, device="meta") for name, b in model.named_buffers()}
    # Two images: BatchNorm in training mode refuses a 1x1 map of one.
    images = torch.empty(2, 3, image_size, image_size, dtype=next(model.parameters()).dtype, device="meta")
    with torch.enable_grad():
        logits = functional_call(model, stand_ins | buffers, images)
    gradients = torch.autograd.grad(logits.sum(), list(stand_ins.values()), allow_unused=True)
    return {name for name, gradient in zip(stand_ins, gradients, strict=True) if gradient is None}


def _without(module, unused, prefix):
    """A copy of `module` that shares its layers, save those whose parameters are `unused`: they do nothing."""
    names = {prefix + name for name, _ in module.named_parameters()}
    if not names & unused:
        return module
    if names <= unused and (not module._modules or isinstance(module, nn.Linear)):  # a TeacherHead has its adapter
        return _Skipped()
    twin = copy(module)
    twin._modules = {name: child and _without(child, unused, f"{prefix}{name}.")
                     for name, child in module._modules.items()}
    return twin


class _Skipped(nn.Module):
    """A layer whose output nobody uses: it hands on a copy of its input, which what follows may write into."""

    def forward(self, x):
        return x.clone()


class _PooledMap(nn.Module):
    """A network up to the map (B, C, H, W) that its classifier averages, for feature_shapes."""

    def __init__(self, network):
        super().__init__()
        self.network, self.name = network, network.name

    def forward(self, images, is_feat):
        return [self.network.pooled_map(self.network(images, is_feat=is_feat)[0][-2])], None


class ReusedClassifier(Method):
    """The student's last map projected onto the one that the teacher's classifier averages, and read by it.

    The student's own classifier takes no part. Everything that the deployed network needs is in the state of student
    and method: it is rebuilt without the teacher's weights.
    """

    weights = Weights(0.0, 0.0, 1.0, "SimKD, scripts/run_distill.sh")
    options = (Option(("-f", "--factor"), {"type": number(int, at_least=1), "default": 2, "metavar": "N",
                                           "help": "simkd: what the teacher's channels are divided by within the "
                                           "projector"}),)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        if getattr(opt, "beta", None) == 0:
            raise UsageError("simkd: --beta 0 leaves nothing that trains the network which it evaluates: use 1")
        teacher = unwrap(teacher)
        ((t_channels, *t_size),) = feature_shapes(_PooledMap(teacher), opt.image_size)
        if opt.factor > t_channels:
            raise UsageError(f"simkd: --factor {opt.factor} leaves nothing of the teacher's {t_channels} channels: use "
                             "2, 4 or 8")
        self.t_size, self.image_size = tuple(t_size), opt.image_size
        self.projector = SimKD(self.s_shapes[-2][0], t_channels, opt.factor)
        self.classifier = deepcopy(get_classifier(teacher)).requires_grad_(False)
        self.loss = HintLoss()
        self.teacher = (teacher,)  # for pooled_map alone; in a tuple, so that it does not become a sub-module
        self.logits = None

    def forward(self, s, t, batch):
        with torch.no_grad():
            f_t = self.teacher[0].pooled_map(t.feats[-2])
        projected, target = self.projector(s.feats[-2], f_t)
        with torch.no_grad():
            self.logits = self.classifier(projected.mean((2, 3)))
        return self.loss(projected, target)

    def predict(self, s):
        return self.logits  # of the forward pass: another one would update BatchNorm's statistics twice

    def deploy(self, student):
        return Deployed(student, self.projector, self.classifier, self.t_size, self.image_size)
