"""ShuffleNet (3 groups) for 32x32 images.

Zhang et al., CVPR 2018, arXiv 1707.01083, with the 1x1 stem and state_dict names of RepDistiller.
"""
import torch
from torch import nn
from torch.nn import functional as F

from models.base import Backbone, Stage, conv1x1, conv3x3

GROUPS = 3
C_STEM = 24


def channel_shuffle(x, groups):
    """Interleaves the groups of channels: channel i of group g becomes i * groups + g. (B, C, H, W) -> (B, C, H, W).

    A channels-last map stays channels-last, because the copy is made in that order. This saves a tenth of a training
    step on a CPU.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))  # (B, C, H, W) -> (B, H, W, groups, C/groups)
        return x.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)  # -> (B, H, W, C) -> (B, C, H, W)
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)  # -> (B, C/groups, groups, H, W) -> (B, C, H, W)


class Block(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; returns its output before the ReLU.

    At stride 2 the average-pooled input is concatenated to the branch; at stride 1 the input is added to it.
    """

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        branch = c_out - c_in if stride == 2 else c_out
        width = branch // 4
        self.stride = stride
        self.groups = 1 if c_in == C_STEM else GROUPS  # the stem is too narrow to split
        self.conv1 = conv1x1(c_in, width, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, branch, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = channel_shuffle(out, self.groups) if self.groups > 1 else out
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)
        out += x
        return out


class ShuffleNetV1(Backbone):
    """feats at 32x32: 24 x 32^2, 240 x 16^2, 480 x 8^2, 960 x 4^2, 960."""

    head = "linear"

    def __init__(self, num_classes=100):
        super().__init__()
        self.conv1 = conv1x1(3, C_STEM)
        self.bn1 = nn.BatchNorm2d(C_STEM)
        self.layer1 = self._stage(C_STEM, 240, blocks=4)
        self.layer2 = self._stage(240, 480, blocks=8)
        self.layer3 = self._stage(480, 960, blocks=4)
        self.linear = nn.Linear(960, num_classes)

    @staticmethod
    def _stage(c_in, c_out, blocks):
        return Stage(Block(c_in, c_out, stride=2), *(Block(c_out, c_out, stride=1) for _ in range(blocks - 1)))

    def trunk(self, x):
        f = F.relu(self.bn1(self.conv1(x)), inplace=True)
        yield f, None
        for stage in (self.layer1, self.layer2, self.layer3):
            f, before = stage(f)
            yield f, before
