"""MobileNetV2 for 32x32 images.

Sandler et al., CVPR 2018, arXiv 1801.04381, with the strides, ReLU and state_dict names of RepDistiller (width 0.5) and
SimKD (width 1.0).
"""
from torch import nn

from models.base import Backbone, conv1x1, conv3x3, init_convolutions

ROWS = (  # (expansion, channels at width 1, blocks, stride of the first)
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STAGE_ENDS = (1, 2, 4, 6)  # the rows whose outputs are the stage maps
C_LAST = 1280  # not scaled by the width, as published


def _norm_relu(conv):
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a skip connection where the shapes are equal."""

    def __init__(self, c_in, c_out, stride, expansion):
        super().__init__()
        width = c_in * expansion
        self.skip = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            *_norm_relu(conv1x1(c_in, width)),
            *_norm_relu(conv3x3(width, width, stride, groups=width)),
            conv1x1(width, c_out),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class MobileNetV2(Backbone):
    """feats at 32x32, w = width: 32w x 16^2, 24w x 16^2, 32w x 8^2, 96w x 4^2, 320w x 2^2, 1280.

    The deepest map is the one before the last 1x1 convolution. The stage maps are linear (no ReLU follows them), so
    `preact` does not change them.
    """

    head = "classifier.0"

    def __init__(self, width=1.0, num_classes=100):
        super().__init__()
        c_in = int(32 * width)
        self.conv1 = nn.Sequential(*_norm_relu(conv3x3(3, c_in, stride=2)))
        self.blocks = nn.ModuleList()
        for expansion, channels, blocks, stride in ROWS:
            c_out = int(channels * width)
            row = [InvertedResidual(c_in, c_out, stride, expansion)]
            row += [InvertedResidual(c_out, c_out, 1, expansion) for _ in range(blocks - 1)]
            self.blocks.append(nn.Sequential(*row))
            c_in = c_out
        self.conv2 = nn.Sequential(*_norm_relu(conv1x1(c_in, C_LAST)))
        self.classifier = nn.Sequential(nn.Linear(C_LAST, num_classes))
        init_convolutions(self)
        nn.init.normal_(self.classifier[0].weight, std=0.01)
        nn.init.zeros_(self.classifier[0].bias)

    def trunk(self, x):
        x = self.conv1(x)
        yield x, None
        for i, row in enumerate(self.blocks):
            x = row(x)
            if i in STAGE_ENDS:
                yield x, x

    def ending(self, f):
        return self.conv2(f), None
