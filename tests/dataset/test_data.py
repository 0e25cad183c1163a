"""The registry, digits, CIFAR from tiny archives made here, holding out, and the channel statistics."""
import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torchvision.datasets

from dataset import dataset_dict, load_dataset
from dataset.cifar import CIFAR10_STATS, CIFAR100_STATS
from dataset.data import channel_stats
from errors import UsageError


def test_unknown_names_get_the_nearest():
    with pytest.raises(UsageError, match="unknown data set 'cifar-100': did you mean cifar100"):
        load_dataset("cifar-100", "data", cache_dir="cache")
    assert set(dataset_dict) >= {"digits", "cifar10", "cifar100", "tiny_imagenet", "folder"}


def test_digits(digits):
    assert (digits.num_classes, digits.n_data, len(digits.test)) == (10, 1437, 360)
    assert (digits.image_size, digits.padding, digits.flip) == (32, 4, False)
    assert digits.val is digits.test
    assert digits.classes == list("0123456789")
    for images in (digits.train, digits.test):
        array = images.array()
        assert array.dtype == torch.uint8 and array.is_contiguous() and array.shape == (len(images), 32, 32, 3)
        shares = torch.bincount(images.targets) / len(images)
        assert (shares - 0.1).abs().max() < 0.005  # stratified
        assert np.array_equal(np.asarray(images.pil(5)), array[5].numpy())
        assert images.pil(5).mode == "RGB" and images.path(5) is None
    assert digits.train.array().max() == 255
    pixels = digits.train.array().double() / 255
    assert digits.mean == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=1e-12)
    assert digits.std == pytest.approx(pixels.flatten(0, 2).std(0, unbiased=False).tolist(), abs=1e-9)


def test_digits_hold_every_original_once():
    from sklearn.datasets import load_digits
    small = load_dataset("digits", "unused", cache_dir="unused", image_size=8)  # 8x8: the originals' own size
    ours = torch.cat([small.train.array(), small.test.array()])[..., 0]
    theirs = torch.from_numpy(load_digits().images * (255 / 16)).round().to(torch.uint8)
    assert sorted(map(bytes, ours.numpy())) == sorted(map(bytes, theirs.numpy()))


@pytest.mark.parametrize("size", [0, -3])
def test_image_size_must_be_positive(size):
    with pytest.raises(UsageError, match="image_size"):
        load_dataset("digits", "unused", cache_dir="unused", image_size=size)


# Holding out

def _bytes(images):
    return set(map(bytes, images.array().numpy()))


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_holdout(source, load, tree, digits):
    def held(**options):
        return load_dataset("digits", "", cache_dir="", **options) if source == "digits" else load(tree, **options)

    whole, data = held(), held(holdout=4)
    assert torch.bincount(data.val.targets).tolist() == [4] * data.num_classes
    assert len(data.train) + len(data.val) == len(whole.train)
    assert not _bytes(data.train) & _bytes(data.val)
    assert _bytes(data.train) | _bytes(data.val) == _bytes(whole.train)
    assert torch.equal(data.test.array(), whole.test.array())
    assert (data.mean, data.std) == (whole.mean, whole.std)  # a held-out run is normalised as a full one
    for images in (data.train, data.val):
        assert images.array().is_contiguous() and images.array() is images.array()
        for i in (0, len(images) - 1):
            assert np.array_equal(np.asarray(images.pil(i)), images.array()[i].numpy())

    assert torch.equal(held(holdout=4).val.array(), data.val.array())  # stable
    assert not torch.equal(held(holdout=4, seed=1).val.array(), data.val.array())


def test_holdout_keeps_the_paths(load, tree):
    data = load(tree, holdout=2)
    paths = [images.path(i) for images in (data.train, data.val) for i in range(len(images))]
    assert sorted(paths) == sorted(str(path) for path in (tree / "train").rglob("*.png"))


def test_holdout_that_empties_a_class_is_refused(load, tree):
    with pytest.raises(UsageError, match=r"--holdout 6 .*'cat'.* 6 training images"):
        load(tree, holdout=6)
    with pytest.raises(UsageError, match="negative"):
        load(tree, holdout=-1)


def test_channel_stats_of_constant_images_stay_usable():
    mean, std = channel_stats([np.full((4, 4, 3), 51, np.uint8)] * 3)
    assert mean == pytest.approx((0.2, 0.2, 0.2)) and std == (1 / 255,) * 3


# CIFAR

def _tiny_cifar(cls, folder):
    """The class with a 5 + 5 image archive in `folder`/data, and the training pixels (5, 3, 32, 32)."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 3072), dtype=np.uint8)
    fine = cls is torchvision.datasets.CIFAR100
    key = cls.meta["key"]
    names = [f"class {i}" for i in range(100 if fine else 10)]
    files = {"train": {"data": pixels[0], "fine_labels" if fine else "labels": [0, 1, 2, 3, 4]},
             "test": {"data": pixels[1], "fine_labels" if fine else "labels": [4, 3, 2, 1, 0]},
             "meta": {key: names}}
    source = folder / "source" / cls.base_folder
    source.mkdir(parents=True)
    md5 = {}
    for name, content in files.items():
        (source / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((source / name).read_bytes()).hexdigest()
    folder.joinpath("data").mkdir()
    archive = folder / "data" / cls.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname=cls.base_folder)
    tiny = type(cls.__name__, (cls,), {
        "train_list": [["train", md5["train"]]], "test_list": [["test", md5["test"]]],
        "meta": {"filename": "meta", "key": key, "md5": md5["meta"]}, "url": "http://127.0.0.1:9/no-network",
        "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest()})
    return tiny, pixels[0].reshape(5, 3, 32, 32)


@pytest.mark.parametrize(("name", "cls", "stats"), [
    ("cifar10", torchvision.datasets.CIFAR10, ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
    ("cifar100", torchvision.datasets.CIFAR100, ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))),
])
def test_cifar(monkeypatch, tmp_path, capfd, name, cls, stats):
    tiny, pixels = _tiny_cifar(cls, tmp_path)
    monkeypatch.setattr(torchvision.datasets, cls.__name__, tiny)
    data = load_dataset(name, str(tmp_path / "data"), cache_dir="unused")  # from the archive a user put there
    assert (data.mean, data.std) == stats == (CIFAR10_STATS if name == "cifar10" else CIFAR100_STATS)
    assert (data.image_size, data.padding, data.flip, data.num_classes) == (32, 4, True, int(name[5:]))
    assert data.classes[1] == "class 1"
    assert data.val is data.test and data.test.targets.tolist() == [4, 3, 2, 1, 0]
    assert data.train.array().is_contiguous() and data.train.targets.dtype == torch.int64
    assert np.array_equal(data.train.array().numpy(), pixels.transpose(0, 2, 3, 1))

    def no_network(self):
        raise AssertionError("looked for a download although the files are there")

    monkeypatch.setattr(tiny, "download", no_network)
    load_dataset(name, str(tmp_path / "data"), cache_dir="unused")
    assert capfd.readouterr().out == ""
    with pytest.raises(UsageError, match=r"images of cifar.* are 32x32"):
        load_dataset(name, str(tmp_path / "data"), cache_dir="unused", image_size=64)


def test_cifar_without_a_network(monkeypatch, tmp_path, capfd):
    def unreachable(self):
        print("Downloading ...")
        raise OSError("<urlopen error\n no route to host>")

    monkeypatch.setattr(torchvision.datasets.CIFAR100, "download", unreachable)
    with pytest.raises(UsageError) as raised:
        load_dataset("cifar100", str(tmp_path / "data"), cache_dir="unused")
    message = str(raised.value)
    assert "no route to host" in message and "\n" not in message
    assert "cifar-100-python.tar.gz" in message and str(tmp_path / "data") in message
    assert capfd.readouterr().out == ""
