"""Wide residual networks for 32x32 images: wrn_16_1 ... wrn_40_2 (wrn_DEPTH_WIDTH).

Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146. state_dict names are RepDistiller's.
"""
from torch import nn
from torch.nn import functional as F

from models.base import Backbone, conv1x1, conv3x3, init_convolutions


class Block(nn.Module):
    """Pre-activation block. Its inputs are x and active = relu(bn1(x)), which the stage computes."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = conv3x3(c_out, c_out)
        self.convShortcut = None if c_in == c_out else conv1x1(c_in, c_out, stride)

    def forward(self, x, active):
        out = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class PreactStage(nn.Module):
    """x (B, C_in, H_in, W_in) -> (output (B, C, H, W), the first BatchNorm's output (B, C_in, H_in, W_in)).

    The first BatchNorm's output is the previous map's `preact` feature. Returning it, instead of running the layer
    again, limits the layer to one update of its running statistics per step.
    """

    def __init__(self, c_in, c_out, blocks, stride):
        super().__init__()
        self.layer = nn.Sequential(Block(c_in, c_out, stride), *(Block(c_out, c_out, 1) for _ in range(blocks - 1)))

    def forward(self, x):
        first, *rest = self.layer
        before = first.bn1(x)
        x = first(x, F.relu(before))
        for block in rest:
            x = block(x, F.relu(block.bn1(x), inplace=True))
        return x, before


class WideResNet(Backbone):
    """depth = 6n + 4 layers: a 16-channel stem and three stages of n blocks, 16k, 32k and 64k channels (k = width).

    feats at 32x32: 16 x 32^2, 16k x 32^2, 32k x 16^2, 64k x 8^2, 64k. The maps are sums before BatchNorm and ReLU;
    `preact` returns the stage maps after the BatchNorm that follows them.
    """

    def __init__(self, depth, width, num_classes=100):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv3x3(3, 16)
        self.block1 = PreactStage(16, 16 * width, blocks, stride=1)
        self.block2 = PreactStage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = PreactStage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def trunk(self, x):
        f0 = self.conv1(x)
        yield f0, None
        f1, _ = self.block1(f0)
        yield f1, None  # the next block has its BatchNorm and ReLU
        f2, before1 = self.block2(f1)
        yield f2, before1
        yield self.block3(f2)

    def ending(self, f):
        before = self.bn1(f)
        return F.relu(before), before
