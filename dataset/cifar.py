"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), downloaded and checked by torchvision."""
import contextlib
import http.client
import io
import tarfile

import torch

from dataset.data import ArrayImages, Data
from errors import UsageError

# (mean, std) per channel of the training pixels in [0, 1]: the published constants (RepDistiller's for CIFAR-100).
CIFAR10_STATS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_STATS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def build_cifar10(data_dir, image_size, cache_dir):
    """`Data` of CIFAR-10, 50,000 + 10,000 images of 32x32, downloaded into `data_dir` if missing.

    image_size: None or 32. cache_dir is not used.
    Raises UsageError for another image_size, and if the download fails.
    """
    from torchvision.datasets import CIFAR10

    return _build("cifar10", CIFAR10, CIFAR10_STATS, data_dir, image_size)


def build_cifar100(data_dir, image_size, cache_dir):
    """`Data` of CIFAR-100, 50,000 + 10,000 images of 32x32, downloaded into `data_dir` if missing.

    image_size: None or 32. cache_dir is not used.
    Raises UsageError for another image_size, and if the download fails.
    """
    from torchvision.datasets import CIFAR100

    return _build("cifar100", CIFAR100, CIFAR100_STATS, data_dir, image_size)


def _build(name, cls, stats, data_dir, image_size):
    if image_size not in (None, 32):
        raise UsageError(f"--image_size {image_size}: the images of {name} are 32x32")
    train, test = (_open(name, cls, data_dir, train) for train in (True, False))
    classes, test_set = train.classes, _images(test)
    return Data(name, list(classes), 32, *stats, flip=True, train=_images(train), val=test_set, test=test_set)


def _open(name, cls, data_dir, train):
    """torchvision's data set object, read from `data_dir`, or downloaded into it."""
    try:
        return cls(data_dir, train=train)  # checks the files' MD5; does not use the network
    except RuntimeError:
        pass  # torchvision's "Dataset not found or corrupted"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision's messages; the progress bar is on standard error
            return cls(data_dir, train=train, download=True)
    except (OSError, RuntimeError, http.client.HTTPException, tarfile.TarError, EOFError) as error:
        raise UsageError(f"cannot download {name} ({' '.join(str(error).split())}): get {cls.filename} from {cls.url} "
                         f"and put it into {data_dir}") from error


def _images(source):
    """`ArrayImages` of a torchvision CIFAR object, which holds (N, 32, 32, 3) as a view of (N, 3, 32, 32) memory.

    It reorders the memory in place, a thousand images at a time. A contiguous copy would need another 150 MB.
    """
    planes = source.data.transpose(0, 3, 1, 2)  # (N, 32, 32, 3) -> (N, 3, 32, 32), contiguous
    pixels = planes.reshape(planes.shape[0], 32, 32, 3)  # the same memory, to be filled in this order
    for start in range(0, len(planes), 1000):
        chunk = slice(start, start + 1000)
        pixels[chunk] = planes[chunk].transpose(0, 2, 3, 1)  # numpy sees the overlap, and copies the chunk first
    return ArrayImages(torch.from_numpy(pixels), torch.tensor(source.targets))
