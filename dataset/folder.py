"""Any tree of images: <data_dir>/train/<class>/... and <data_dir>/{val,test}/<class>/..., of any depth below a class.

The cache folder keeps what is measured from the images (their size, mean and deviation) and, for the device loader, the
decoded images. The cache files' names depend on the folder's path, a fingerprint of the tree and the images' size, so a
changed tree never reads an old cache.
"""
import contextlib
import glob
import hashlib
import json
import os
import sys
from typing import NamedTuple

import torch

from dataset.data import Data, ImageSet, channel_stats
from dataset.decode import cached_array, decode, decode_each, dimensions
from errors import UsageError
from files import remove_abandoned, write_text

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
FORMAT = 2  # increase it when decoding changes: all caches are then created again
STATS_IMAGES = 5000  # mean and deviation come from at most this many: within 0.003 of all 50,000 for CIFAR-10


class Split(NamedTuple):
    """The files of a split and their classes: names, targets, sizes and stamps have one entry per image."""

    classes: list[str]  # sorted
    names: list[str]  # relative to the data folder, sorted within each class
    targets: list[int]
    sizes: list[int]  # bytes of each file
    stamps: list[str]  # name, size and modification time of each file, from which the fingerprint is computed
    empty: list[str]  # class folders without images, relative to the data folder


class FolderImages(ImageSet):
    """Image files: `pil` decodes from disk on every call; `array` decodes all files once into `cache_file`."""

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

    image_size: resize the shorter side to this many pixels and crop the centre. None requires squares of one size.
    val/ and test/ are `Data.val` and `Data.test`; if only one of them exists, it is both.
    Raises UsageError for a folder or split that is missing or empty, for splits with different classes, for images of
    different sizes or that are not square without `image_size`, and for a damaged image among those that are measured.
    """
    root = os.path.abspath(data_dir)
    return from_splits(f"folder-{os.path.basename(root)}", root, _scan(root), image_size, cache_dir)


def from_splits(name, root, splits, image_size, cache_dir, stats=None):
    """`Data` with that name of {"train": Split, and "val", "test" or both}, whose files are below `root`.

    image_size, cache_dir: as for `build`.
    stats: (mean, std) per channel; None measures them on the training images.
    Raises UsageError for damaged images among those that are measured, and for different sizes without image_size.
    """
    remove_abandoned(cache_dir)
    cache = _cache_prefix(root, splits, cache_dir)
    _remove_stale(cache)
    size = image_size
    if size is None:
        size = _kept(f"{cache}-native.json", {"image_size"}, lambda: _common_size(root, splits))["image_size"]
    if stats is None:
        facts = _kept(f"{cache}-{size}.json", {"mean", "std"}, lambda: _channel_stats(root, splits["train"], size))
        stats = tuple(facts["mean"]), tuple(facts["std"])
    sets = {key: FolderImages(root, split, size, f"{cache}-{size}-{key}.npy") for key, split in splits.items()}
    test = sets.get("test") or sets["val"]
    return Data(name, splits["train"].classes, size, *stats, flip=True, train=sets["train"],
                val=sets.get("val", test), test=test, identity=identity(splits))


def _scan(root):
    """{"train": Split, and "val", "test" or both}, with the same classes. Raises UsageError as `build`."""
    if not os.path.isdir(root):
        raise UsageError(f"no such folder: {root}")
    present = [name for name in ("train", "val", "test") if os.path.isdir(os.path.join(root, name))]
    if "train" not in present:
        raise UsageError(f"no folder train/ in {root}")
    if len(present) == 1:
        raise UsageError(f"no folder val/ or test/ in {root}")
    splits = {name: scan_split(root, name) for name in present}
    compare_classes(root, splits)
    return splits


def scan_split(root, name):
    """`Split` of the images in <root>/<name>/<class>/. It takes 0.3 s for 60,000 files (one stat per file).

    Raises UsageError if there are no images or something cannot be read.
    """
    with readable():
        folders = sorted(entry.name for entry in os.scandir(os.path.join(root, name))
                         if entry.is_dir() and not entry.name.startswith("."))
        files = {folder: list(walk(os.path.join(root, name, folder), f"{name}/{folder}")) for folder in folders}
    if not any(files.values()):
        raise UsageError(f"no images in {os.path.join(root, name)}/<class>/ ({', '.join(SUFFIXES)})")
    return make_split(files)._replace(empty=[f"{name}/{folder}/" for folder in folders if not files[folder]])


def make_split(files):
    """`Split` of {class: [(relative name, stat), ...]}. A class without files is dropped."""
    split = Split(sorted(name for name in files if files[name]), [], [], [], [], [])
    for label, name in enumerate(split.classes):
        for file, stat in files[name]:
            split.names.append(file)
            split.targets.append(label)
            split.sizes.append(stat.st_size)
            split.stamps.append(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return split


def compare_classes(root, splits):
    """Raises UsageError if the splits have different classes. Prints a note if a class folder has no images."""
    train = splits["train"].classes
    empty = [folder for split in splits.values() for folder in split.empty]
    for name in [name for name in splits if name != "train"]:
        different = sorted(set(train) ^ set(splits[name].classes))
        only = [(c, *(("train", name) if c in train else (name, "train"))) for c in different]
        if only:
            some = [f"'{c}' only in {there}/" + (f" (no images in {absent}/{c}/)" if f"{absent}/{c}/" in empty else "")
                    for c, there, absent in only]
            raise UsageError(f"train/ and {name}/ of {root} have different classes: {first_few(some)}")
    if empty:
        print(f"note: no images in {first_few(empty)} of {root}: not counted as classes", file=sys.stderr)


def first_few(items):
    """The first three items, and the number of the others, as text."""
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


@contextlib.contextmanager
def readable():
    """Converts the OSError of a broken link, a folder without permission, ... into a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def walk(folder, relative):
    """Yields (relative name, stat) of the images below `folder`, sorted. Skips hidden files (macOS's ._x.jpg)."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from walk(entry.path, f"{relative}/{entry.name}")
        elif entry.name.lower().endswith(SUFFIXES):
            yield f"{relative}/{entry.name}", entry.stat()


def _cache_prefix(root, splits, cache_dir):
    """The prefix of the cache files: <cache_dir>/folder-<hash of the path>-<hash of the contents>."""
    content = hashlib.sha256(f"format {FORMAT}\n".encode())
    for split in splits.values():
        content.update(os.fsencode("\n".join(split.stamps)))
    where = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    return os.path.join(os.path.abspath(cache_dir), f"folder-{where}-{content.hexdigest()[:20]}")


def identity(splits):
    """Twelve hexadecimal digits from the names and sizes of all files. They do not depend on the tree's place or time
    stamps."""
    listing = "\n".join(f"{name}\0{size}" for split in splits.values()
                        for name, size in zip(split.names, split.sizes, strict=True))
    return hashlib.sha256(os.fsencode(listing)).hexdigest()[:12]


def _kept(path, keys, measure):
    """The dict with these keys in the file `path`; without it, the result of measure(), which is written to `path`."""
    with contextlib.suppress(OSError, ValueError), open(path) as file:  # missing, or not ours: measured again
        facts = json.load(file)
        if isinstance(facts, dict) and facts.keys() == keys:
            return facts
    facts = measure()
    with contextlib.suppress(OSError):  # cached_array prints a note if nothing can be written
        write_text(path, json.dumps(facts))
    return facts


def _channel_stats(root, split, size):
    """{"mean", "std"} of the images of a split; of a larger split, of STATS_IMAGES evenly spaced images."""
    count = min(len(split.names), STATS_IMAGES)
    sample = [os.path.join(root, split.names[i * len(split.names) // count]) for i in range(count)]
    mean, std = channel_stats(decode_each(sample, size))
    return {"mean": mean, "std": std}


def _common_size(root, splits):
    """{"image_size"} of images that are all squares of one size. Reads every file's header (2.2 s for 60,000).

    Raises UsageError for other images.
    """
    names = [name for split in splits.values() for name in split.names]
    width, height = dimensions(os.path.join(root, names[0]))
    for name in names:
        w, h = dimensions(os.path.join(root, name))
        if (w, h) != (width, height):
            raise UsageError(f"images of different sizes in {root}: {names[0]} is {width}x{height}, {name} is {w}x{h}; "
                             "pass --image_size N to resize them")
    if width != height:
        raise UsageError(f"the images in {root} are {width}x{height}, not square; pass --image_size N to crop them")
    return {"image_size": width}


def _remove_stale(cache):
    """Removes the caches of the folder's earlier contents. Caches of other image sizes stay."""
    folder, name = os.path.split(cache)
    where, content = name.split("-")[1:3]
    for path in glob.glob(os.path.join(glob.escape(folder), f"folder-{where}-*")):
        if os.path.basename(path).split("-")[2] != content and not path.endswith(".tmp"):
            with contextlib.suppress(OSError):  # another process has removed it, or (Windows) has it open
                os.unlink(path)
