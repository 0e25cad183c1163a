"""BatchNorm for batches of one 1x1 map, and forward passes that do not update BatchNorm's statistics."""
from contextlib import contextmanager

import torch.nn.functional as F
from torch import nn


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that normalises a single 1x1 map by the running statistics; PyTorch's raises an error.

    Methods and heads reduce features to such maps (an embedding, a pooled map). Without this class an epoch whose last
    batch has one image would end in an error although the networks accept that batch. A single 1x1 map does not change
    the running statistics, because one value has no variance.

    Shapes: x (B, C, H, W) -> (B, C, H, W).
    """

    def forward(self, x):
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


@contextmanager
def freeze_bn_statistics(*networks):
    """Within this context, passes in training mode normalise by the batch but do not update the running statistics.

    It is for a further pass on a batch that the networks' statistics have counted or will count in their own update.
    """
    layers = [layer for network in networks for layer in network.modules()
              if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
