"""ShuffleNetV2 for 32x32 images.

Ma et al., ECCV 2018, arXiv 1807.11164, with the 1x1 stem (no max-pool) and state_dict names of RepDistiller (size 1)
and SimKD (size 1.5).
"""
import torch
from torch import nn
from torch.nn import functional as F

from models.base import Backbone, conv1x1, conv3x3
from models.shufflenetv1 import channel_shuffle

C_STEM = 24
C_LAST = 1024


class DownBlock(nn.Module):
    """Halves the map by two strided branches with half the output channels each, concatenated and shuffled."""

    def __init__(self, c_in, c_out):
        super().__init__()
        half = c_out // 2
        self.conv1 = conv3x3(c_in, c_in, stride=2, groups=c_in)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv2 = conv1x1(c_in, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(c_in, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x):
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))), inplace=True)
        return channel_shuffle(torch.cat([left, right], 1), 2)


class Block(nn.Module):
    """Half of the channels pass unchanged; the other half passes 1x1, depthwise 3x3, 1x1.

    Shapes: x (B, C, H, W) -> the two halves (B, C/2, H, W), before ReLU and shuffle.
    """

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x):
        kept, out = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        return kept, self.bn3(self.conv3(self.bn2(self.conv2(out))))


class ShuffleStage(nn.Sequential):
    """x -> (output, concatenated halves of the last block before ReLU and shuffle)."""

    def forward(self, x):
        down, *early, last = self
        x = down(x)
        for block in early:
            kept, out = block(x)
            x = channel_shuffle(torch.cat([kept, F.relu(out, inplace=True)], 1), 2)
        before = torch.cat(last(x), 1)
        # The kept half has passed a ReLU before, so a second one changes neither it nor its gradient.
        return channel_shuffle(F.relu(before), 2), before


class ShuffleNetV2(Backbone):
    """Three stages of `widths` channels.

    feats at 32x32: 24 x 32^2, widths[0] x 16^2, widths[1] x 8^2, widths[2] x 4^2, 1024. The deepest map is the one
    before the last 1x1 convolution. The channels of `preact` maps are in the order before the last shuffle, as
    published.
    """

    head = "linear"

    def __init__(self, widths=(116, 232, 464), num_classes=100):
        super().__init__()
        self.conv1 = conv1x1(3, C_STEM)
        self.bn1 = nn.BatchNorm2d(C_STEM)
        self.layer1 = self._stage(C_STEM, widths[0], blocks=3)
        self.layer2 = self._stage(widths[0], widths[1], blocks=7)
        self.layer3 = self._stage(widths[1], widths[2], blocks=3)
        self.conv2 = conv1x1(widths[2], C_LAST)
        self.bn2 = nn.BatchNorm2d(C_LAST)
        self.linear = nn.Linear(C_LAST, num_classes)

    @staticmethod
    def _stage(c_in, c_out, blocks):
        return ShuffleStage(DownBlock(c_in, c_out), *(Block(c_out) for _ in range(blocks)))

    def trunk(self, x):
        f = F.relu(self.bn1(self.conv1(x)), inplace=True)
        yield f, None
        for stage in (self.layer1, self.layer2, self.layer3):
            f, before = stage(f)
            yield f, before

    def ending(self, f):
        return F.relu(self.bn2(self.conv2(f)), inplace=True), None
