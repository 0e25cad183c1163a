"""Data sets by name, and the loaders of their batches.

    data = load_dataset("digits", "data", cache_dir="data/cache")
    loader = make_loader(data, data.train, kind="auto", batch_size=64, train=True, device=device)
    for batch in loader: batch.images, batch.target, batch.index

To add a data set, write `build(data_dir, image_size, cache_dir) -> Data` in a file of its own and add it to
`dataset_dict`. A builder imports libraries that only it needs inside the function: torchvision takes 2 s to import.
"""
from dataset import cifar, digits, folder, tiny_imagenet
from dataset.augment import augment_batch
from dataset.data import ArrayImages, Data, ImageSet, hold_out
from dataset.device_loader import DeviceLoader
from dataset.loader import Batch, Loader
from errors import UsageError, unknown

__all__ = ["ArrayImages", "Batch", "Data", "DeviceLoader", "ImageSet", "Loader", "augment_batch", "dataset_dict",
           "load_dataset", "loader_kinds", "make_loader"]

dataset_dict = {
    "digits": digits.build,
    "cifar10": cifar.build_cifar10,
    "cifar100": cifar.build_cifar100,
    "tiny_imagenet": tiny_imagenet.build,
    "folder": folder.build,
}

loader_kinds = ("auto", "device", "torch")
AUTO_BYTES = 2e9  # below this size "auto" means "device": 650,000 images of 32x32, 13,000 of 224x224
DEVICE_BYTES = 8e9  # above this size "device" is refused: it decodes the whole set into memory


def load_dataset(name, data_dir, *, holdout=0, image_size=None, cache_dir, seed=0):
    """The data set `name` as `Data`.

    data_dir: the folder that contains it or into which it is downloaded (`folder`: the tree itself).
    holdout: number of training images of each class that become `Data.val`, chosen by `seed` alone. With 0, `Data.val`
        is the data set's own validation split if it has one, else the test set itself.
    image_size: decode to this many pixels a side; None keeps the images' own size.
    cache_dir: the folder that keeps the decoded images of `folder` and `tiny_imagenet` between runs.
    Raises UsageError for an unknown name, for data that is missing or damaged, and for a holdout that leaves a class
    without training images.
    """
    if name not in dataset_dict:
        raise unknown("data set", name, dataset_dict)
    if image_size is not None and image_size < 1:
        raise UsageError(f"--image_size {image_size}: the side of the images in pixels must be at least 1")
    data = dataset_dict[name](data_dir, image_size, cache_dir)
    return hold_out(data, holdout, seed) if holdout else data


def make_loader(data, images, *, kind, batch_size, train, device, seed=0, num_workers=0, drop_last=False,
                padding_mode="constant", channels_last=True):
    """A `Loader` of batches of `images`, one of the splits of `data`.

    kind: "device" (the uint8 images are on `device` and are augmented there), "torch" (torchvision transforms in
        `num_workers` DataLoader processes), or "auto": "device" below AUTO_BYTES, else "torch".
    train: shuffle and augment (random crop after padding by `data.padding`, flip if `data.flip`); else keep the order.
    drop_last: drop an epoch's last batch if it is shorter.
    padding_mode: "constant" (black) or "reflect".
    channels_last: the memory format of `Batch.images`; False gives contiguous NCHW.
    Raises UsageError for an unknown kind, for a set above DEVICE_BYTES with "device", and if there is no batch.
    """
    if kind not in loader_kinds:
        raise unknown("loader", kind, loader_kinds)
    if batch_size < 1 or (drop_last and batch_size > len(images)):
        raise UsageError(f"--batch_size {batch_size} gives no batch of the {len(images)} images of {data.name}")
    if kind == "device" and images.nbytes > DEVICE_BYTES:
        raise UsageError(f"{data.name} takes {images.nbytes / 1e9:.1f} GB decoded, too much to keep on the device "
                         f"(limit {DEVICE_BYTES / 1e9:.0f} GB): use the torch loader")
    options = {"batch_size": batch_size, "train": train, "device": device, "seed": seed, "drop_last": drop_last,
               "padding_mode": padding_mode, "channels_last": channels_last}
    if kind == "device" or (kind == "auto" and images.nbytes < AUTO_BYTES):
        return DeviceLoader(data, images, **options)
    from dataset.torch_loader import TorchLoader  # here, because it imports torchvision
    return TorchLoader(data, images, num_workers=num_workers, **options)
