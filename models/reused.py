"""A student that predicts by its teacher's classifier, behind a projector (SimKD, arXiv 2203.14001)."""
from copy import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from losses import pool_to_match
from models.base import conv1x1, conv3x3
from models.norm import BatchNorm2d
from models.probe import unwrap


class SimKD(nn.Module):
    """The projector P. The larger of the two maps is average-pooled to the other's size; P projects the student's.

    Args:
        s_channels, t_channels: channels of the two maps.
        factor: the teacher's channels over the channels between the projector's convolutions.

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


class ReusedClassifier(nn.Module):
    """SimKD's deployed network: the student's backbone, the projector, the teacher's classifier. Shares their tensors.

    It excludes the student's own classifier and the layers that only that classifier reads (the last 1x1 convolution of
    MobileNetV2 and ShuffleV2): they are neither counted nor run nor exported.

    Args:
        student: a network of the zoo.
        projector: a SimKD.
        classifier: the teacher's nn.Linear.
        t_size: (H, W) of the teacher's last map; a larger map of the student is average-pooled to it.
        image_size: size of the training images, in pixels.

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
    """Names of the parameters on which model(images) does not depend, found on the meta device without computing."""
    stand_ins = {name: torch.empty_like(p, device="meta").requires_grad_() for name, p in model.named_parameters()}
    buffers = {name: torch.empty_like(b, device="meta") for name, b in model.named_buffers()}
    # Two images, because BatchNorm in training mode refuses the 1x1 map of a single image.
    images = torch.empty(2, 3, image_size, image_size, dtype=next(model.parameters()).dtype, device="meta")
    with torch.enable_grad():
        logits = functional_call(model, stand_ins | buffers, images)
    gradients = torch.autograd.grad(logits.sum(), list(stand_ins.values()), allow_unused=True)
    return {name for name, gradient in zip(stand_ins, gradients, strict=True) if gradient is None}


def _without(module, unused, prefix):
    """A copy of `module` that shares its layers; layers whose parameters are all `unused` become _Skipped.

    prefix: of the module's parameters in `unused`.
    """
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
    """Replaces a layer whose output is not used. Returns a copy of its input, into which later layers may write."""

    def forward(self, x):
        return x.clone()
