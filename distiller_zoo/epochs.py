"""The epoch that a method is in, for losses that change with it."""
import torch
from torch import nn


class EpochCounter(nn.Module):
    """Counts images in training, and so epochs, on the device and in the checkpoint.

    Args:
        n_data: images of an epoch.
    """

    def __init__(self, n_data):
        super().__init__()
        self.n_data = n_data
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        """The epoch, from 1 on, that the next `images` images are in: a tensor (), which costs no synchronisation."""
        epoch = self.seen // self.n_data + 1
        if self.training:
            self.seen += images
        return epoch
