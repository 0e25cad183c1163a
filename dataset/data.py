"""The classes of a data set: `Data` holds its facts and three splits; each split is an `ImageSet`."""
import dataclasses

import numpy as np
import torch
from PIL import Image

from errors import UsageError


class ImageSet:
    """An ordered set of labelled RGB images of one square size.

    targets: LongTensor (N,), the class of each image.
    image_size: pixels a side, S below.
    """

    def __init__(self, targets, image_size):
        self.targets = targets
        self.image_size = image_size

    def __len__(self):
        return len(self.targets)

    @property
    def nbytes(self):
        """Size of `array()` in bytes, without creating it."""
        return len(self) * self.image_size**2 * 3

    def array(self):
        """All images as one contiguous uint8 tensor (N, S, S, 3)."""
        raise NotImplementedError

    def pil(self, i):
        """Image i as a PIL RGB image."""
        raise NotImplementedError

    def path(self, i):
        """The file of image i, or None if the images do not come from files."""
        return None

    def subset(self, rows):
        """The images at positions `rows` (LongTensor), in that order."""
        return Subset(self, rows)


class ArrayImages(ImageSet):
    """Images in memory: array (N, S, S, 3) uint8 tensor, targets (N,) int64."""

    def __init__(self, array, targets):
        super().__init__(targets, array.shape[1])
        self._array = array

    def array(self):
        return self._array

    def pil(self, i):
        return Image.fromarray(self._array[i].numpy())

    def subset(self, rows):
        # A copy, so that the whole set can be freed: CIFAR split in two takes 150 MB instead of 300.
        return ArrayImages(self._array[rows], self.targets[rows])


class Subset(ImageSet):
    """The images at positions `rows` of a set that decodes from disk.

    The first call of `array()` makes a copy, which is kept.
    """

    def __init__(self, whole, rows):
        super().__init__(whole.targets[rows], whole.image_size)
        self._whole, self._rows, self._array = whole, rows, None

    def array(self):
        if self._array is None:
            self._array = self._whole.array()[self._rows]
        return self._array

    def pil(self, i):
        return self._whole.pil(int(self._rows[i]))

    def path(self, i):
        return self._whole.path(int(self._rows[i]))


@dataclasses.dataclass
class Data:
    """A data set: its facts and its splits. Without a validation split `val` is the same object as `test`."""

    name: str
    classes: list[str]
    image_size: int  # pixels a side
    mean: tuple[float, float, float]  # per channel, of pixels scaled to [0, 1]
    std: tuple[float, float, float]
    flip: bool  # whether a mirrored image keeps its class
    train: ImageSet
    val: ImageSet
    test: ImageSet
    identity: str = ""  # depends on the images and their labels; "" if the name identifies them
    imagenet: bool = False  # whether networks with a layout for ImageNet use it (models.create_model)
    padding: int | None = None  # pixels added on each side before the random crop; None: 4 at 32x32 (He et al. 2016),
    # proportional at other sizes

    def __post_init__(self):
        if self.padding is None:
            self.padding = self.image_size // 8

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def n_data(self):
        """Number of training images. `Batch.index` of the training loader is below it."""
        return len(self.train)


def hold_out(data, per_class, seed):
    """`data` with `per_class` images of each class moved from train to val. They depend on `seed` alone.

    Raises UsageError for a negative number, and if a class has no more images than that.
    """
    if per_class < 0:
        raise UsageError(f"--holdout {per_class}: the number of images to hold out of each class cannot be negative")
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(data.train), dtype=torch.bool)
    for label, name in enumerate(data.classes):
        members = (data.train.targets == label).nonzero().flatten()
        if len(members) <= per_class:
            raise UsageError(f"--holdout {per_class} leaves nothing to train on of class '{name}', "
                             f"which has {len(members)} training images")
        held[members[torch.randperm(len(members), generator=generator)[:per_class]]] = True
    whole = data.train
    return dataclasses.replace(data, train=whole.subset((~held).nonzero().flatten()),
                               val=whole.subset(held.nonzero().flatten()))


def channel_stats(images):
    """(mean, std), three floats each: of every channel, over an iterable of uint8 arrays (H, W, 3), pixels in [0, 1].

    The sums are integers, so the result does not depend on the order of the images, to the last bit.
    A constant channel gets the deviation of one grey level, so that normalisation stays finite.
    """
    count, total, squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
    for image in images:
        pixels = image.reshape(-1, 3).astype(np.int64)
        count += len(pixels)
        total += pixels.sum(0)
        squares += (pixels**2).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
