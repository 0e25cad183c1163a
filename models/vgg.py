"""VGG with BatchNorm for 32x32 and 64x64 images: vgg8 ... vgg19.

Simonyan & Zisserman, ICLR 2015, arXiv 1409.1556; one linear layer and state_dict names as in RepDistiller.
"""
from torch import nn
from torch.nn import functional as F

from models.base import Backbone, init_convolutions

WIDTHS = (64, 128, 256, 512, 512)


def _block(c_in, c_out, convolutions):
    """3x3 convolutions with BatchNorm and ReLU, without the last ReLU, which the caller applies."""
    layers = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
        c_in = c_out
    return nn.Sequential(*layers[:-1])


class VGG(Backbone):
    """Five blocks; block i has convolutions[i] layers of WIDTHS[i] channels.

    feats at 32x32: 64 x 32^2, 128 x 16^2, 256 x 8^2, 512 x 4^2, 512 x 4^2, 512. The first block is the stem: its map is
    after the ReLU even with `preact`.
    """

    head = "classifier"

    def __init__(self, convolutions, num_classes=100):
        super().__init__()
        for i, (c_in, c_out) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            self.add_module(f"block{i}", _block(c_in, c_out, convolutions[i]))
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        init_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def trunk(self, x):
        # The published networks keep the last two blocks at one resolution, except for Tiny-ImageNet's 64 pixels.
        pooled_after = (0, 1, 2, 3) if x.shape[2] == 64 else (0, 1, 2)
        for i, block in enumerate((self.block0, self.block1, self.block2, self.block3, self.block4)):
            before = block(x)
            f = F.relu(before)
            yield f, before if i else None
            x = F.max_pool2d(f, 2) if i in pooled_after else f
