"""Data sets by name, and the loaders that hand out their batches.

    data = load_dataset("digits", "data", cache_dir="data/cache")
    loader = make_loader(data, data.train, kind="auto", batch_size=64, train=True, device=device)
    for images, target, index in loader: ...

To add a data set, write `build(data_dir, image_size, cache_dir) -> Data` in a file of its own and name it in
`dataset_dict`. A builder imports what only it needs inside itself: torchvision alone takes 2 s to import.
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
AUTO_BYTES = 2e9  # up to this size "auto" means "device": 650,000 images of 32x32, 13,000 of 224x224
DEVICE_BYTES = 8e9  # beyond this, "device" is a mistake: the whole set would be decoded into memory


def load_dataset(name, data_dir, *, holdout=0, image_size=None, cache_dir, seed=0):
    """The data set `name` as `Data`.

    data_dir: where it lies, or is downloaded to (`folder`: the tree itself).
    holdout: so many training images of each class become `Data.val`; with 0 `Data.val` is the data set's own validation
        split if it has one, else the test set itself. Which ones is a function of `seed` alone.
    image_size: decode to this many pixels a side; None keeps the images' own size.
    cache_dir: where the decoded images of `folder` and `tiny_imagenet` are kept between runs.
    Raises UsageError for an unknown name, for data that is absent or broken, and for a holdout that empties a class.
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

    kind: "device" (the uint8 images live on `device` and are augmented there), "torch" (torchvision transforms in
        `num_workers` DataLoader processes), or "auto": "device" for what fits easily, else "torch".
    train: shuffle and augment (random crop after padding by `data.padding`, flip if `data.flip`); else keep the order.
    padding_mode: "constant" (black) or "reflect".
    channels_last: the memory format of `Batch.images`; False gives contiguous NCHW.
    Raises UsageError for an unknown kind, for a set too large for "device", and when no batch would come out.
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
