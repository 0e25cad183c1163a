"""The epoch that a method is in, for losses that change with it."""
import torch
from torch import nn


class EpochCounter(nn.Module):
    """Counts the training images seen, and so the epochs. The count is a buffer: on the device and in the checkpoint.

    Args:
        n_data: images per epoch.
    """

    def __init__(self, n_data):
        super().__init__()
        self.n_data = n_data
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        """The epoch, counted from 1, of the next `images` images: a tensor (), which needs no synchronisation.

        images: number of images of this batch; added to the count in training mode only.
        """
        epoch = self.seen // self.n_data + 1
        if self.training:
            self.seen += images
        return epoch
