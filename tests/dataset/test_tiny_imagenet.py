"""Tiny-ImageNet: both layouts, and what is refused. The images are of 16 pixels where 64 change nothing."""
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import load_dataset, make_loader
from errors import UsageError

from .conftest import write_image

WNIDS = ("n03", "n01", "n02")  # as wnids.txt has them: not sorted
CLASSES = sorted(WNIDS)


def write_stock(root, size=16):
    """The layout of the zip: 4 training and 3 validation images for each of the three classes, one of them grey."""
    seed, lines = 0, []
    for _ in range(3):
        for wnid in WNIDS:
            lines.append(f"val_{len(lines)}.JPEG\t{wnid}\t0\t0\t{size - 1}\t{size - 1}\n")
            write_image(root / "val" / "images" / f"val_{len(lines) - 1}.JPEG", 100 + len(lines), (size, size))
    for wnid in WNIDS:
        for i in range(4):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", seed, (size, size))
            seed += 1
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t15\t15\n")
    grey = root / "train" / "n02" / "images" / "n02_1.JPEG"
    Image.open(grey).convert("L").save(grey)
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (root / "words.txt").write_text("".join(f"{wnid}\tsome words\n" for wnid in WNIDS))
    write_image(root / "test" / "images" / "test_0.JPEG", 999, (size, size))
    return root


def sort_into_folders(root, deep=False):
    """What people do to the stock layout; `deep` leaves another images/ below each class."""
    for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
        file, wnid = line.split("\t")[:2]
        folder = root / "val" / wnid / "images" if deep else root / "val" / wnid
        folder.mkdir(parents=True, exist_ok=True)
        (root / "val" / "images" / file).rename(folder / file)


@pytest.fixture
def stock(tmp_path):
    """DATA_DIR/tiny-imagenet-200."""
    return write_stock(tmp_path / "data" / "tiny-imagenet-200")


@pytest.fixture
def load(tmp_path):
    def call(root, **options):
        return load_dataset("tiny_imagenet", str(root), cache_dir=str(tmp_path / "cache"), **options)

    return call


def test_the_stock_layout(load, stock):
    data = load(stock.parent)
    assert (data.name, data.classes, data.image_size, data.flip) == ("tiny_imagenet", CLASSES, 16, True)
    assert (data.mean, data.std) == ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))
    assert data.val is data.test
    assert data.train.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    label = dict(line.split("\t")[:2] for line in (stock / "val" / "val_annotations.txt").read_text().splitlines())
    for i in range(9):
        assert label[data.test.path(i).rpartition("/")[2]] == data.classes[data.test.targets[i]]
    for images in (data.train, data.test):
        for i in range(len(images)):
            pixels = np.asarray(Image.open(images.path(i)).convert("RGB"))
            assert np.array_equal(images.array()[i].numpy(), pixels)
            assert np.array_equal(np.asarray(images.pil(i)), pixels)
    grey, = (i for i in range(12) if data.train.path(i).endswith("n02_1.JPEG"))
    assert (data.train.array()[grey] == data.train.array()[grey][..., :1]).all()


def test_images_of_64_pixels_are_padded_by_4(load, tmp_path):
    data = load(write_stock(tmp_path / "full", size=64))
    assert (data.image_size, data.padding) == (64, 4)
    assert load(tmp_path / "full", holdout=1).padding == 4
    resized = load(tmp_path / "full", image_size=32)
    assert (resized.image_size, resized.padding, resized.train.array().shape) == (32, 2, (12, 32, 32, 3))
    for kind in ("device", "torch"):
        loader = make_loader(data, data.train, kind=kind, batch_size=12, train=True, device="cpu", seed=3)
        batch, = loader
        assert batch.images.shape == (12, 3, 64, 64)
        assert torch.equal(batch.target, data.train.targets[batch.index])


def test_the_folder_itself(load, stock):
    assert load(stock).train.path(0) == load(stock.parent).train.path(0)


def test_decoded_once_and_held_out(load, stock, capfd):
    load(stock).train.array()
    assert "decoding 12 images" in capfd.readouterr().err
    data = load(stock.parent, holdout=1, image_size=16)
    assert torch.bincount(data.val.targets).tolist() == [1, 1, 1]
    assert (len(data.train.array()), len(data.val.array()), len(data.test)) == (9, 3, 9)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("left", ["all", "annotations", "nothing"])
def test_validation_images_sorted_into_folders(load, stock, capfd, deep, left):
    before = load(stock)
    pixels, targets = before.test.array().clone(), before.test.targets
    sort_into_folders(stock, deep)
    if left != "all":
        (stock / "val" / "images").rmdir()
    if left == "nothing":
        (stock / "val" / "val_annotations.txt").unlink()
    capfd.readouterr()
    after = load(stock)
    assert torch.equal(after.test.array(), pixels) and torch.equal(after.test.targets, targets)
    assert after.identity == before.identity  # a run goes on
    assert "note" not in capfd.readouterr().err


def test_the_identity_knows_the_labels(load, stock):
    before = load(stock).identity
    annotations = stock / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("val_2.JPEG\tn02", "val_2.JPEG\tn01"))
    assert load(stock).identity != before


def test_without_wnids_the_folders_decide(load, stock):
    (stock / "wnids.txt").unlink()
    assert load(stock).classes == CLASSES


def test_copied_into_folders_the_annotations_decide(load, stock):
    shutil.copytree(stock / "val" / "images", stock / "val" / "n01")
    assert len(load(stock).test) == 9


def test_windows_line_ends_and_blank_lines(load, stock):
    for path in (stock / "wnids.txt", stock / "val" / "val_annotations.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert load(stock).test.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3


# What is refused

def _annotate(line):
    def change(root):
        with open(root / "val" / "val_annotations.txt", "a") as file:
            file.write(line)
    return change


def _drop_line(root):
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text("".join(annotations.read_text().splitlines(keepends=True)[:-1]))


def _empty_class(root):
    for path in (root / "train" / "n01" / "images").iterdir():
        path.unlink()


def _unlisted_empty_class(root):
    _empty_class(root)
    (root / "wnids.txt").unlink()


def _empty_folder_of_val(root):
    sort_into_folders(root)
    for path in (root / "val" / "n01").iterdir():
        path.unlink()


def _unannotated_class(root):
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("n02", "n01"))


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda root: shutil.rmtree(root / "train"), "no folder train/ in {root}: unpack http"),
    (lambda root: shutil.rmtree(root / "val"), "no folder val/ in {root}: unpack http"),
    (lambda root: (root / "val" / "val_annotations.txt").unlink(),
     "no val/val_annotations.txt in {root}, where the labels of val/images/ are: unpack http"),
    (lambda root: shutil.rmtree(root / "val" / "images"), "no images in {root}/val/<class>/"),
    (_annotate("val_77.JPEG\tn01\t0\t0\t9\t9\n"), "val_annotations.txt names val_77.JPEG, which is not in val/images/"),
    (_annotate("nonsense\n"), "val_annotations.txt names nonsense, which is not in val/images/"),
    (_annotate("val_0.JPEG\tn99\t0\t0\t9\t9\n"), "gives val_0.JPEG the class 'n99', of which train/ has no images"),
    (_annotate("val_0.JPEG\n"), "gives val_0.JPEG the class '', of which train/ has no images"),
    (_annotate("val_0.JPEG\tn01\t0\t0\t9\t9\n"), "gives val_0.JPEG two classes, n03 and n01"),
    (_drop_line, "has no line for val/images/val_8.JPEG"),
    (lambda root: (root / "val" / "val_annotations.txt").write_bytes(b"\xff\xfe\x00\x01"), "is not in val/images/"),
    (_empty_class, "no images in train/n01/ of {root}"),
    (lambda root: shutil.rmtree(root / "train" / "n01"), "no images in train/n01/ of {root}"),
    (_unlisted_empty_class, "the class 'n01', of which train/ has no images"),
    (_empty_folder_of_val, "'n01' only in train/ (no images in val/n01/)"),
    (_unannotated_class, "'n02' only in train/"),
])
def test_refused(load, stock, tmp_path, spoil, message):
    spoil(stock)
    with pytest.raises(UsageError) as raised:
        load(stock.parent)
    assert message.format(root=stock) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(),
                                  lambda path: write_image(path / "train" / "cat" / "0.png", 0)],
                         ids=["nowhere", "empty", "another data set"])
def test_no_tiny_imagenet(load, tmp_path, make):
    make(tmp_path / "elsewhere")
    with pytest.raises(UsageError) as raised:
        load(tmp_path / "elsewhere")
    assert str(raised.value) == (
        f"no folder tiny-imagenet-200/ in {tmp_path / 'elsewhere'}: unpack "
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip there (wnids.txt, train/<wnid>/images/, val/images/, "
        "val/val_annotations.txt)")


def test_a_corrupt_image(load, stock):
    path = stock / "val" / "images" / "val_4.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UsageError, match=f"cannot read the image {path}: "):
        load(stock, image_size=16).test.array()
