"""Image folders: what is read, what is refused, and when the cache is trusted."""
import concurrent.futures
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import decode as decode_module
from dataset import load_dataset, make_loader
from dataset.folder import SUFFIXES
from errors import UsageError
from files import lock, remove_abandoned, writing

from .conftest import write_image, write_tree


def contents(folder):
    """The files of a folder but for the lock of those that write there."""
    return {file for file in folder.iterdir() if file.name != ".lock"}


@pytest.fixture
def decoded(monkeypatch):
    """The paths decoded so far."""
    paths = []
    real = decode_module.decode

    def counting(path, size):
        paths.append(path)
        return real(path, size)

    monkeypatch.setattr(decode_module, "decode", counting)
    return paths


def _pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_reads_the_tree(load, tree):
    data = load(tree)
    assert (data.name, data.classes, data.image_size, data.padding, data.flip) == \
        ("folder-tree", ["cat", "dog", "eel"], 16, 2, True)
    assert data.train.targets.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert data.val is data.test and len(data.test) == 18
    array = data.train.array()
    assert array.dtype == torch.uint8 and array.is_contiguous() and array.shape == (18, 16, 16, 3)
    for i in range(18):
        assert os.path.dirname(data.train.path(i)) == str(tree / "train" / data.classes[data.train.targets[i]])
        assert np.array_equal(array[i].numpy(), _pixels(data.train.path(i)))
        assert np.array_equal(np.asarray(data.train.pil(i)), array[i].numpy())
    pixels = array.double().flatten(0, 2) / 255
    assert data.mean == pytest.approx(pixels.mean(0).tolist())
    assert data.std == pytest.approx(pixels.std(0, unbiased=False).tolist())


def test_nested_folders_suffixes_and_what_is_no_image(load, tmp_path):
    root = tmp_path / "tree"
    names = ["a.png", "B.JPG", "c.jpeg", "D.WebP", "deep/er/e.bmp", "deep/f.tif", "g.ppm", "h.gif"]
    for i, name in enumerate(names):
        write_image(root / "train" / "cat" / name, i)
    write_image(root / "test" / "cat" / "x.png", 50)
    for rubbish in ("train/cat/notes.txt", "train/cat/._a.png", "train/readme.png", "train/.DS_Store"):
        (root / rubbish).write_bytes(b"no image")
    write_image(root / "train" / ".thumbnails" / "a.png", 51)
    data = load(root)
    assert sorted(os.path.relpath(data.train.path(i), root / "train" / "cat") for i in range(len(data.train))) \
        == sorted(names)
    assert data.classes == ["cat"] and len(data.train.array()) == len(names)
    assert {os.path.splitext(name)[1].lower() for name in names} <= set(SUFFIXES)


def test_val_and_test(load, tmp_path):
    both = load(write_tree(tmp_path / "both", splits=("train", "val", "test")))
    assert "val" in both.val.path(0) and "test" in both.test.path(0)
    only = load(write_tree(tmp_path / "only", splits=("train", "val")))
    assert only.val is only.test and "val" in only.test.path(0)
    held = load(tmp_path / "both", holdout=1)
    assert "train" in held.val.path(0) and "test" in held.test.path(0)


def test_image_size_resizes_and_crops(load, tmp_path):
    root = write_tree(tmp_path / "tree", size=(40, 20))
    write_image(root / "train" / "cat" / "tall.png", 99, size=(10, 33))
    data = load(root, image_size=16)
    assert data.image_size == 16 and data.train.array().shape == (19, 16, 16, 3)
    wide = Image.open(data.train.path(0)).convert("RGB").resize((32, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train.array()[0].numpy(), np.asarray(wide.crop((8, 0, 24, 16))))


def test_every_pair_of_sides_gives_a_full_image(tmp_path):
    for width in range(1, 30, 4):
        for height in range(1, 30, 3):
            write_image(tmp_path / "image.png", 0, (width, height))
            assert decode_module.decode(tmp_path / "image.png", 13).size == (13, 13)


def test_palette_grey_and_transparent_images_become_rgb(tmp_path):
    write_image(tmp_path / "rgb.png", 0)
    for mode in ("P", "L", "LA", "RGBA", "1"):
        Image.open(tmp_path / "rgb.png").convert(mode).save(tmp_path / "other.png")
        assert decode_module.decode(tmp_path / "other.png", 16).mode == "RGB"


def _levels(shift):
    """(16, 16) uint16: every level of 8 bits once, in the higher byte, with something in the lower."""
    return (np.arange(256, dtype=np.uint16).reshape(16, 16) << 8) + shift


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize("shift", [0, 255])
def test_grey_images_of_16_bits_keep_the_higher_8(tmp_path, suffix, shift):
    Image.fromarray(_levels(shift)).save(tmp_path / f"deep{suffix}")
    pixels = np.asarray(decode_module.decode(tmp_path / f"deep{suffix}", 16))
    assert np.array_equal(pixels, np.arange(256).reshape(16, 16, 1).repeat(3, axis=2))


def test_big_endian_16_bits(tmp_path):
    Image.fromarray(_levels(7).astype(">u2")).save(tmp_path / "deep.tif")
    assert Image.open(tmp_path / "deep.tif").mode == "I;16B"
    assert np.array_equal(np.asarray(decode_module.decode(tmp_path / "deep.tif", 16))[..., 1].flatten(), range(256))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_refused(tmp_path, dtype):
    Image.fromarray(np.zeros((16, 16), dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(UsageError, match=r"deep\.tif: its pixels have 32 bits"):
        decode_module.decode(tmp_path / "deep.tif", 16)


def test_empty_class_folders_are_named(load, tree, capfd):
    for name in ("ant", "bee"):
        (tree / "train" / name).mkdir()
    (tree / "test" / "ant").mkdir()
    assert load(tree).classes == ["cat", "dog", "eel"]
    assert capfd.readouterr().err == \
        f"note: no images in train/ant/, train/bee/, test/ant/ of {tree}: not counted as classes\n"
    (tree / "test" / "bee").mkdir()
    load(tree)
    assert "train/ant/, train/bee/, test/ant/ and 1 more of" in capfd.readouterr().err


# The cache

def test_decoded_once(load, tree, decoded, tmp_path, capfd):
    first = load(tree)
    array = first.train.array().clone()
    cached, = (tmp_path / "cache").glob("*-train.npy")
    assert capfd.readouterr() == ("", f"decoding 18 images into {cached}\n")
    assert len(decoded) == 18 + 18  # measured, then cached
    decoded.clear()
    again = load(tree)
    assert torch.equal(again.train.array(), array)
    assert (again.mean, again.std, again.image_size) == (first.mean, first.std, 16)
    assert decoded == [] and capfd.readouterr() == ("", "")
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_two_runs_at_once(load, tree, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(lambda _: load(tree).train.array(), range(4)))
    assert all(torch.equal(array, arrays[0]) for array in arrays)
    assert len(contents(tmp_path / "cache")) == 3  # the array, the size, the statistics; no temporary file


def test_the_size_asked_for_and_the_same_size_measured_share_a_cache(load, tree, decoded, tmp_path):
    """A run measures the size, evaluate.py asks for the one that the run recorded."""
    native = load(tree)
    array = native.test.array().clone()
    files = contents(tmp_path / "cache")
    decoded.clear()
    asked = load(tree, image_size=16)
    assert torch.equal(asked.test.array(), array)
    assert (asked.mean, asked.std, asked.identity) == (native.mean, native.std, native.identity)
    assert decoded == [] and contents(tmp_path / "cache") == files


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_what_a_killed_process_left_is_removed_at_the_next_start(load, tree, tmp_path, monkeypatch):
    load(tree)
    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(decode_module, "decode", lambda path, size: os.kill(os.getpid(), signal.SIGKILL))
            load(tree).train.array()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    left, = (tmp_path / "cache").glob("*.tmp")
    load(tree)
    assert not left.exists()


def test_what_a_process_is_writing_stays(load, tree, tmp_path):
    path = tmp_path / "cache" / "folder-0-0-16-train.npy"
    path.parent.mkdir(exist_ok=True)
    with lock(path.parent / ".lock"), writing(path) as file:
        file.write(b"whole")
        load(tree)
        assert len(list(path.parent.glob("*.tmp"))) == 1
    assert path.read_bytes() == b"whole" and not list(path.parent.glob("*.tmp"))


def test_what_is_written_for_the_former_contents_stays(load, tree, tmp_path, monkeypatch):
    """A process decodes, the tree changes, a second process starts: the first one is not disturbed."""
    first = load(tree)
    real = decode_module.decode

    def meddle(path, size):
        monkeypatch.setattr(decode_module, "decode", real)
        _add(tree)
        load(tree)
        return real(path, size)

    monkeypatch.setattr(decode_module, "decode", meddle)
    assert first.train.array().shape == (18, 16, 16, 3)
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_other_files_are_not_taken_for_ours(tmp_path):
    for name in ("notes.tmp", "a.npy", "b.npy.tmp"):
        (tmp_path / name).touch()
    remove_abandoned(tmp_path)
    remove_abandoned(tmp_path / "absent")
    assert len(list(tmp_path.iterdir())) == 3


def test_writing_to_the_array_does_not_reach_the_cache(load, tree):
    array = load(tree).train.array()
    before = array.clone()
    array.zero_()
    assert torch.equal(load(tree).train.array(), before)


def _replace(tree):
    write_image(tree / "train" / "dog" / "3.png", 1000)


def _touch(tree):
    os.utime(tree / "train" / "dog" / "3.png", ns=(1, 1))


def _add(tree):
    write_image(tree / "train" / "dog" / "new.png", 1001)


def _remove(tree):
    (tree / "train" / "dog" / "3.png").unlink()


def _rename(tree):
    (tree / "train" / "dog" / "3.png").rename(tree / "train" / "dog" / "9.png")


@pytest.mark.parametrize("change", [_replace, _touch, _add, _remove, _rename])
def test_a_changed_folder_is_decoded_again(load, tree, decoded, tmp_path, change):
    load(tree).train.array()
    stale = contents(tmp_path / "cache")
    change(tree)
    decoded.clear()
    data = load(tree)
    array = data.train.array()
    assert len(decoded) == 2 * len(data.train)
    for i in range(len(data.train)):
        assert np.array_equal(array[i].numpy(), _pixels(data.train.path(i)))
    left = contents(tmp_path / "cache")
    assert len(left) == 3 and not stale & left


def test_caches_of_other_sizes_and_folders_stay(load, tree, tmp_path):
    other = write_tree(tmp_path / "other")
    for root, size in ((tree, None), (tree, 8), (other, None)):
        load(root, image_size=size).train.array()
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
    _replace(tree)
    load(tree).train.array()
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # other's, and the new one


@pytest.mark.parametrize("spoil", [
    lambda path, raw: path.write_bytes(raw[:len(raw) // 2]),
    lambda path, raw: path.write_bytes(b""),
    lambda path, raw: path.write_bytes(b"something else" * 100),
    lambda path, raw: np.save(path, np.zeros((18, 16, 16), np.uint8)),
    lambda path, raw: np.save(path, np.zeros((18, 16, 16, 3), np.int8)),
    lambda path, raw: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
    lambda path, raw: path.unlink(),
], ids=["torn", "empty", "foreign", "shape", "dtype", "pickle", "gone"])
def test_a_spoilt_cache_is_written_again(load, tree, tmp_path, spoil):
    array = load(tree).train.array().clone()
    cached, = (tmp_path / "cache").glob("*-train.npy")
    raw = cached.read_bytes()
    spoil(cached, raw)
    assert torch.equal(load(tree).train.array(), array)
    assert cached.read_bytes() == raw


@pytest.mark.parametrize("content", ["", "{", "[]", '{"image_size": 16}', "null"])
def test_spoilt_facts_are_measured_again(load, tree, tmp_path, content):
    first = load(tree)
    facts = sorted((tmp_path / "cache").glob("*.json"))
    assert len(facts) == 2
    for file in facts:
        file.write_text(content)
    again = load(tree)
    assert (again.mean, again.std, again.image_size) == (first.mean, first.std, 16)


def test_a_cache_that_cannot_be_written(load, tree, tmp_path, capfd):
    cached = load(tree).train.array().clone()
    capfd.readouterr()
    (tmp_path / "file").touch()  # a folder without write permission would not stop root
    array = load_dataset("folder", str(tree), cache_dir=str(tmp_path / "file" / "cache")).train.array()
    assert torch.equal(array, cached)
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"note: decoding 18 images into memory, as the cache {tmp_path / 'file' / 'cache'}")
    assert err.endswith("cannot be written: Not a directory\n")


def test_a_disk_that_fills_up(load, tree, tmp_path, monkeypatch, capfd):
    """The temporary file is removed, which frees the disk for the run's checkpoints."""
    data = load(tree)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    array = data.train.array()
    assert all(np.array_equal(array[i].numpy(), _pixels(data.train.path(i))) for i in range(18))
    assert "No space left on device" in capfd.readouterr().err
    assert not list((tmp_path / "cache").glob("*.tmp")) and not list((tmp_path / "cache").glob("*.npy"))


def test_a_corrupt_image_is_not_a_cache_that_cannot_be_written(load, tree, tmp_path):
    _overwrite(tree / "test" / "dog" / "3.png")
    (tmp_path / "cache").touch()
    with pytest.raises(UsageError, match="cannot read the image"):
        load(tree, image_size=16).test.array()


# What is refused

def _refused(load, root, **options):
    with pytest.raises(UsageError) as raised:
        load(root, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_folders_that_are_not_there(load, tree, tmp_path):
    assert _refused(load, tmp_path / "nowhere") == f"no such folder: {tmp_path / 'nowhere'}"
    shutil.rmtree(tree / "test")
    assert "no folder val/ or test/" in _refused(load, tree)
    (tree / "train").rename(tree / "test")
    assert "no folder train/" in _refused(load, tree)


def test_no_images(load, tree):
    shutil.rmtree(tree / "train")
    (tree / "train" / "cat").mkdir(parents=True)
    write_image(tree / "train" / "loose.png", 0)
    assert "no images in" in _refused(load, tree) and str(tree / "train") in _refused(load, tree)


def test_different_classes(load, tree):
    (tree / "test" / "dog").rename(tree / "test" / "cow")
    assert "'cow' only in test/, 'dog' only in train/" in _refused(load, tree)
    (tree / "test" / "dog").mkdir()
    assert "'cow' only in test/, 'dog' only in train/ (no images in test/dog/)" in _refused(load, tree)
    for i in range(5):
        write_image(tree / "test" / f"zebra{i}" / "0.png", i)
    assert "and 4 more" in _refused(load, tree)


def test_mixed_sizes(load, tree):
    write_image(tree / "test" / "dog" / "3.png", 0, size=(16, 24))
    message = _refused(load, tree)
    assert "16x16" in message and "16x24" in message and "--image_size N" in message
    assert "test/dog/3.png" in message
    assert load(tree, image_size=16).test.array().shape == (18, 16, 16, 3)


def test_not_square(load, tmp_path):
    message = _refused(load, write_tree(tmp_path / "tree", size=(20, 16)))
    assert "20x16" in message and "--image_size N" in message


def test_a_broken_link(load, tree):
    (tree / "train" / "cat" / "7.png").symlink_to(tree / "nothing.png")
    assert str(tree / "train" / "cat" / "7.png") in _refused(load, tree)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])  # the header is whole, the pixels are not


def _overwrite(path):
    path.write_bytes(b"no image")


@pytest.mark.parametrize("damage", [_cut, _overwrite])
def test_a_corrupt_training_image(load, tree, damage):
    path = tree / "train" / "dog" / "3.png"
    damage(path)
    assert f"cannot read the image {path}: " in _refused(load, tree)


@pytest.mark.parametrize(("kind", "num_workers"), [("device", 0), ("torch", 0), ("torch", 1)])
def test_a_corrupt_image_under_each_loader(load, tree, tmp_path, kind, num_workers):
    path = tree / "test" / "dog" / "3.png"
    _cut(path)
    data = load(tree)
    with pytest.raises(UsageError) as raised:
        list(make_loader(data, data.test, kind=kind, batch_size=4, train=False, device="cpu", num_workers=num_workers))
    message = str(raised.value)
    assert message.startswith(f"cannot read the image {path}: ") and "\n" not in message
    assert not list((tmp_path / "cache").glob("*test*"))  # nothing half-written
