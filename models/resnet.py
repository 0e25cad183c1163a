"""ResNet for 32x32 images: resnet8 ... resnet116 and their wider x2, x4 versions.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, section 4.2, with projection
shortcuts. Widths and state_dict names are those of RepDistiller and SimKD.
"""
from torch import nn
from torch.nn import functional as F

from models.base import Backbone, Stage, conv1x1, conv3x3, init_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum before its ReLU."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = conv3x3(c_out, c_out)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return out


class ResNet(Backbone):
    """depth = 6n + 2 layers: a stem of widths[0] channels and three stages of n blocks, widths[1:] channels.

    feats at 32x32: widths[0] x 32^2, widths[1] x 32^2, widths[2] x 16^2, widths[3] x 8^2, widths[3].
    """

    def __init__(self, depth, widths=(16, 16, 32, 64), num_classes=100):
        super().__init__()
        blocks = (depth - 2) // 6
        stem, *widths = widths
        self.conv1 = conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = self._stage(stem, widths[0], blocks, stride=1)
        self.layer2 = self._stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = self._stage(widths[1], widths[2], blocks, stride=2)
        self.fc = nn.Linear(widths[2], num_classes)
        init_convolutions(self)

    @staticmethod
    def _stage(c_in, c_out, blocks, stride):
        return Stage(BasicBlock(c_in, c_out, stride), *(BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)))

    def trunk(self, x):
        f = F.relu(self.bn1(self.conv1(x)), inplace=True)
        yield f, None
        for stage in (self.layer1, self.layer2, self.layer3):
            f, before = stage(f)
            yield f, before
