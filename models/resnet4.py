"""ResNet18 ... ResNet152 with the CIFAR stem (3x3, stride 1, no max-pool) and four stages.

He et al., CVPR 2016, arXiv 1512.03385, table 1; the stem and state_dict names are those of RepDistiller's ResNet50 and
of DIH's ResNet18 and ResNet34. The ImageNet networks of the same names are torchvision's (models/torchvision_nets.py).
"""
from torch import nn
from torch.nn import functional as F

from models.base import Backbone, Stage, conv1x1, conv3x3, init_convolutions


def _shortcut(c_in, c_out, stride):
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum before its ReLU."""

    expansion = 1

    def __init__(self, c_in, width, stride):
        super().__init__()
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(c_in, width, stride)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; returns the sum before its ReLU."""

    expansion = 4

    def __init__(self, c_in, width, stride):
        super().__init__()
        c_out = self.expansion * width
        self.conv1 = conv1x1(c_in, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, c_out)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.shortcut = _shortcut(c_in, c_out, stride)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return out


class ResNet4(Backbone):
    """A 64-channel stem and four stages of `blocks` blocks, with 64 to 512 channels times the block's expansion e.

    feats at 32x32: 64 x 32^2, 64e x 32^2, 128e x 16^2, 256e x 8^2, 512e x 4^2, 512e.
    """

    head = "linear"

    def __init__(self, block, blocks, num_classes=100):
        super().__init__()
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._stage(block, 64, 64, blocks[0], stride=1)
        self.layer2 = self._stage(block, 64 * block.expansion, 128, blocks[1], stride=2)
        self.layer3 = self._stage(block, 128 * block.expansion, 256, blocks[2], stride=2)
        self.layer4 = self._stage(block, 256 * block.expansion, 512, blocks[3], stride=2)
        self.linear = nn.Linear(512 * block.expansion, num_classes)
        init_convolutions(self)

    @staticmethod
    def _stage(block, c_in, width, blocks, stride):
        rest = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
        return Stage(block(c_in, width, stride), *rest)

    def trunk(self, x):
        f = F.relu(self.bn1(self.conv1(x)), inplace=True)
        yield f, None
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            f, before = stage(f)
            yield f, before
