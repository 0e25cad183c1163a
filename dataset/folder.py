"""Any tree of images: <data_dir>/train/<class>/... and <data_dir>/{val,test}/<class>/..., nested at will below a class.

What is measured from the images (their size, mean and deviation) and, for the device loader, the decoded images are
kept in the cache folder, under names made from the folder's path, the size asked for and a fingerprint of the tree:
a changed tree has another name, so nothing stale is ever read.
"""
import contextlib
import glob
import hashlib
import json
import os
from typing import NamedTuple

import torch

from dataset.data import Data, ImageSet, channel_stats
from dataset.decode import cached_array, decode, decode_each, dimensions, written_whole
from errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
FORMAT = 1  # raise it when decoding changes, and every cache is made anew
STATS_IMAGES = 5000  # mean and deviation come from at most this many: within 0.003 of all 50,000 for CIFAR-10


class Split(NamedTuple):
    classes: list[str]  # sorted
    names: list[str]  # relative to the data folder, sorted within each class
    targets: list[int]
    sizes: list[int]  # bytes of each file
    stamps: list[str]  # name, size and modification time of each file: what the fingerprint is made of


class FolderImages(ImageSet):
    """Image files, decoded from disk when asked for; `array()` is decoded once into `cache_file`."""

    def __init__(self, root, split, image_size, cache_file):
        super().__init__(torch.tensor(split.targets), image_size)
        self._root, self._names, self._cache_file = root, split.names, cache_file

    def array(self):
        return cached_array(self._cache_file, [self.path(i) for i in range(len(self))], self.image_size)

    def pil(self, i):
        return decode(self.path(i), self.image_size)

    def path(self, i):
        return os.path.join(self._root, self._names[i])


def build(data_dir, image_size, cache_dir):
    """`Data` of the tree `data_dir`.

    image_size: resize the shorter side to this and cut out the centre; None where all images are squares of one size.
    With both val/ and test/, they are `Data.val` and `Data.test`; one of them alone is both.
    Raises UsageError for a folder or split that is absent or empty, for splits with different classes, for images of
    mixed sizes without `image_size`, and for a damaged image that gets measured.
    """
    root = os.path.abspath(data_dir)
    splits = _scan(root)
    cache = _cache_prefix(root, splits, image_size, cache_dir)
    facts = _measured(root, splits, image_size, cache)
    size = facts["image_size"]
    sets = {name: FolderImages(root, split, size, f"{cache}-{name}.npy") for name, split in splits.items()}
    test = sets.get("test") or sets["val"]
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    return Data(f"folder-{os.path.basename(root)}", splits["train"].classes, size, mean, std, flip=True,
                train=sets["train"], val=sets.get("val", test), test=test, identity=_identity(splits))


def _scan(root):
    """{"train": Split, and "val", "test" or both}, checked against one another."""
    if not os.path.isdir(root):
        raise UsageError(f"no such folder: {root}")
    present = [name for name in ("train", "val", "test") if os.path.isdir(os.path.join(root, name))]
    if "train" not in present:
        raise UsageError(f"no folder train/ in {root}")
    if len(present) == 1:
        raise UsageError(f"no folder val/ or test/ in {root}")
    try:
        splits = {name: _scan_split(root, name) for name in present}
    except OSError as error:  # a broken link, a folder without permission
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
    train = splits["train"].classes
    for name in present[1:]:
        different = sorted(set(train) ^ set(splits[name].classes))
        if different:
            some = ", ".join(f"'{c}' only in {'train' if c in train else name}/" for c in different[:3])
            raise UsageError(f"train/ and {name}/ of {root} have different classes: {some}"
                             + (f" and {len(different) - 3} more" if len(different) > 3 else ""))
    return splits


def _scan_split(root, name):
    """The images in <root>/<name>/<class>/, one stat each: 60,000 files take 0.3 s."""
    split = Split([], [], [], [], [])
    folders = sorted(entry.name for entry in os.scandir(os.path.join(root, name)) if entry.is_dir())
    for folder in folders:
        files = list(_walk(os.path.join(root, name, folder), f"{name}/{folder}"))
        if not files:
            continue
        split.targets.extend([len(split.classes)] * len(files))
        split.classes.append(folder)
        split.names.extend(file for file, _ in files)
        split.sizes.extend(stat.st_size for _, stat in files)
        split.stamps.extend(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}" for file, stat in files)
    if not split.names:
        raise UsageError(f"no images in {os.path.join(root, name)}/<class>/ ({', '.join(SUFFIXES)})")
    return split


def _walk(folder, relative):
    """Yield (relative name, stat) of the images below `folder`, sorted; hidden files, as macOS's ._x.jpg, are not."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{relative}/{entry.name}")
        elif entry.name.lower().endswith(SUFFIXES):
            yield f"{relative}/{entry.name}", entry.stat()


def _cache_prefix(root, splits, image_size, cache_dir):
    """<cache_dir>/folder-<which folder>-<what is in it>-<size>: what the names of its cache files begin with."""
    content = hashlib.sha256(f"format {FORMAT}\n".encode())
    for split in splits.values():
        content.update(os.fsencode("\n".join(split.stamps)))
    where = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    name = f"folder-{where}-{content.hexdigest()[:20]}-{image_size or 'native'}"
    return os.path.join(os.path.abspath(cache_dir), name)


def _identity(splits):
    """Twelve digits for the names and sizes of all files: the same wherever and whenever the tree was unpacked."""
    listing = "\n".join(f"{name}\0{size}" for split in splits.values()
                        for name, size in zip(split.names, split.sizes, strict=True))
    return hashlib.sha256(os.fsencode(listing)).hexdigest()[:12]


def _measured(root, splits, image_size, cache):
    """{"image_size", "mean", "std"} of the images, from `cache`.json or else measured, written there, and the caches of
    what the folder held before removed. Mean and deviation are those of the training images."""
    with contextlib.suppress(OSError, ValueError):  # absent, or not ours: measured again
        with open(f"{cache}.json") as file:
            facts = json.load(file)
        if isinstance(facts, dict) and facts.keys() == {"image_size", "mean", "std"}:
            return facts
    size = image_size or _common_size(root, splits)
    names = splits["train"].names
    count = min(len(names), STATS_IMAGES)
    sample = [os.path.join(root, names[i * len(names) // count]) for i in range(count)]  # evenly spaced
    mean, std = channel_stats(decode_each(sample, size))
    facts = {"image_size": size, "mean": mean, "std": std}
    with written_whole(f"{cache}.json") as file:
        file.write(json.dumps(facts).encode())
    _remove_stale(cache)
    return facts


def _common_size(root, splits):
    """The side of the images, if all are squares of one size: every file's header is read (2.2 s for 60,000)."""
    names = [name for split in splits.values() for name in split.names]
    width, height = dimensions(os.path.join(root, names[0]))
    for name in names:
        w, h = dimensions(os.path.join(root, name))
        if (w, h) != (width, height):
            raise UsageError(f"images of different sizes in {root}: {names[0]} is {width}x{height}, {name} is {w}x{h}; "
                             "pass --image_size N to resize them")
    if width != height:
        raise UsageError(f"the images in {root} are {width}x{height}, not square; pass --image_size N to crop them")
    return width


def _remove_stale(cache):
    """Remove the caches of the same folder with other contents; those of other image sizes stay."""
    folder, name = os.path.split(cache)
    where, content = name.split("-")[1:3]
    for path in glob.glob(os.path.join(glob.escape(folder), f"folder-{where}-*")):
        if os.path.basename(path).split("-")[2] != content:
            with contextlib.suppress(OSError):  # removed by another process just now, or (Windows) open in one
                os.unlink(path)
