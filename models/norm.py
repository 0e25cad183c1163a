"""BatchNorm that takes what is left of an epoch: a batch of one image; and passes that leave its statistics alone."""
from contextlib import contextmanager

import torch.nn.functional as F
from torch import nn


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that normalises a single 1x1 map by the running statistics, where PyTorch's refuses it.

    Methods and heads reduce features to such maps (an embedding, a map pooled to a smaller one), so without this an
    epoch whose last batch has one image would end in an error although the networks take that batch. The running
    statistics are left as they are: one value has no variance.

    Shapes: x (B, C, H, W) -> the same.
    """

    def forward(self, x):
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


@contextmanager
def freeze_bn_statistics(*networks):
    """Passes in here normalise by the batch in training mode, as ever, but leave the running statistics as they are:
    for a network that has seen the batch already."""
    layers = [layer for network in networks for layer in network.modules()
              if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
