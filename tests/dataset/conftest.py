"""Small data sets for the tests of dataset/."""
import numpy as np
import pytest
from PIL import Image

from dataset import load_dataset


def write_image(path, seed, size=(16, 16)):
    """A random image of (width, height) pixels; its bytes are a function of seed and size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_tree(root, splits=("train", "test"), classes=("cat", "dog", "eel"), per_class=6, size=(16, 16)):
    """root/<split>/<class>/<i>.png, every image different."""
    seed = 0
    for split in splits:
        for name in classes:
            for i in range(per_class):
                write_image(root / split / name / f"{i}.png", seed, size)
                seed += 1
    return root


@pytest.fixture
def tree(tmp_path):
    """18 training and 18 test images of 16x16 in three classes."""
    return write_tree(tmp_path / "tree")


@pytest.fixture
def load(tmp_path):
    """load(folder, ...) -> Data, with a cache of the test's own."""

    def call(root, **options):
        return load_dataset("folder", str(root), cache_dir=str(tmp_path / "cache"), **options)

    return call


@pytest.fixture(scope="session")
def digits():
    return load_dataset("digits", "unused", cache_dir="unused")
