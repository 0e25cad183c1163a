"""Tiny-ImageNet (Stanford CS231n, 2015): 200 classes of ImageNet at 64x64, 500 training and 50 validation images each.

It is read in place, in one of two layouts: as the zip unpacks, with the labels of val/images/ in
val/val_annotations.txt; or with the validation images sorted into val/<wnid>/, for torchvision's ImageFolder. The
validation images are the test set, as in every paper, because those in test/ have no labels. Images are decoded and
cached as in folder.py.
"""
import dataclasses
import os

from dataset import folder
from errors import UsageError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
STATS = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)  # published, as in DIH's loader (arXiv 2103.00497)
ANNOTATIONS = "val/val_annotations.txt"


def build(data_dir, image_size, cache_dir):
    """`Data` of <data_dir>/tiny-imagenet-200/, or of `data_dir` if it is that folder. Classes are the sorted wnids.

    image_size: resize to this many pixels; None keeps the 64 pixels. Random crops are padded by 4 pixels at 64, as in
        DIH's README, and in proportion at other sizes.
    Raises UsageError for a folder that is missing or incomplete, for annotations that do not fit the images, and,
    without `image_size`, for images of different sizes or with a damaged header.
    """
    root = _find(os.path.abspath(data_dir))
    train = folder.scan_split(root, "train")
    _check_wnids(root, train)
    splits = {"train": train, "val": _scan_val(root, train.classes)}
    folder.compare_classes(root, splits)
    data = folder.from_splits("tiny_imagenet", root, splits, image_size, cache_dir, STATS)
    return dataclasses.replace(data, padding=data.image_size // 16, identity=_identity(splits))


def _find(data_dir):
    """The folder that has train/ and val/."""
    root = os.path.join(data_dir, "tiny-imagenet-200")
    if not os.path.isdir(root):
        root = data_dir
        if not any(os.path.exists(os.path.join(root, name)) for name in ("wnids.txt", ANNOTATIONS)):
            raise UsageError(f"no folder tiny-imagenet-200/ in {data_dir}: unpack {URL} there (wnids.txt, "
                             f"train/<wnid>/images/, val/images/, {ANNOTATIONS})")
    for name in ("train", "val"):
        if not os.path.isdir(os.path.join(root, name)):
            raise UsageError(f"no folder {name}/ in {root}: unpack {URL} again")
    return root


def _check_wnids(root, train):
    """Raises UsageError if a class of wnids.txt has no training images. Without that file there is no check."""
    path = os.path.join(root, "wnids.txt")
    listed = [line.split()[0] for line in _lines(path)] if os.path.exists(path) else []
    bare = sorted(set(listed) - set(train.classes))
    if bare:
        raise UsageError(f"no images in {folder.first_few([f'train/{wnid}/' for wnid in bare])} of {root}: unpack "
                         f"{URL} again, or take the class out of wnids.txt")


def _scan_val(root, classes):
    """The validation `Split`: by annotations if val/images/ has images, else by folders."""
    images = os.path.join(root, "val", "images")
    with folder.readable():
        found = dict(folder.walk(images, "val/images")) if os.path.isdir(images) else {}
    if found:
        return _annotated(root, found, classes)
    split = folder.scan_split(root, "val")
    return split._replace(empty=[name for name in split.empty if name != "val/images/"])


def _annotated(root, found, classes):
    """`Split` of the images `found` ({relative name: stat}), by the lines "file, wnid, box" of val_annotations.txt."""
    path = os.path.join(root, ANNOTATIONS)
    if not os.path.exists(path):
        raise UsageError(f"no {ANNOTATIONS} in {root}, where the labels of val/images/ are: unpack {URL} again, or "
                         "sort the images into val/<wnid>/")
    labels = {}
    for line in _lines(path):
        file, wnid, *_ = [*line.split(), "", ""]
        name = f"val/images/{file}"
        if name not in found:
            raise UsageError(f"{path} names {file}, which is not in val/images/: unpack {URL} again")
        if wnid not in classes:
            raise UsageError(f"{path} gives {file} the class '{wnid}', of which train/ has no images: unpack {URL} "
                             "again")
        if labels.setdefault(name, wnid) != wnid:
            raise UsageError(f"{path} gives {file} two classes, {labels[name]} and {wnid}: unpack {URL} again")
    unlabelled = sorted(found.keys() - labels)
    if unlabelled:
        raise UsageError(f"{path} has no line for {folder.first_few(unlabelled)}: unpack {URL} again")
    files = {wnid: [] for wnid in classes}
    for name, stat in found.items():  # sorted, hence sorted within each class
        files[labels[name]].append((name, stat))
    return folder.make_split(files)


def _identity(splits):
    """folder.identity of the names "<split>/<wnid>/<file>": equal for both layouts, different for other labels."""
    return folder.identity({
        key: split._replace(names=[f"{key}/{split.classes[label]}/{os.path.basename(name)}"
                                   for name, label in zip(split.names, split.targets, strict=True)])
        for key, split in splits.items()})


def _lines(path):
    """The lines of a text file that are not blank."""
    with folder.readable(), open(path, encoding="utf-8", errors="replace") as file:
        return [line for line in file if line.strip()]
