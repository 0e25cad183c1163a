"""The batched crop and flip against torchvision's, and the distribution the loader draws them from."""
import pytest
import torch
import torchvision.transforms.functional as TF

from dataset import ArrayImages, augment_batch, make_loader
from dataset.data import Data
from dataset.loader import epoch_order


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 2), (6, 9, 3), (5, 5, 4), (4, 4, 0)])
def test_equals_torchvision_at_every_offset(height, width, padding, padding_mode):
    images = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    span = range(2 * padding + 1)
    cases = [(i, y, x, flip) for i in range(3) for y in span for x in span for flip in (False, True)]
    index, offset_y, offset_x, flip = (torch.tensor(column) for column in zip(*cases, strict=True))
    out = augment_batch(images, index, offset_y, offset_x, flip, padding, padding_mode)
    assert out.dtype == torch.uint8 and out.shape == (len(cases), height, width, 3)
    for image, (i, y, x, flipped) in zip(out, cases, strict=True):
        expected = images[i].permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
        if padding:
            expected = TF.pad(expected, padding, padding_mode=padding_mode)
        expected = TF.crop(expected, y, x, height, width)
        expected = TF.hflip(expected) if flipped else expected
        assert torch.equal(image.permute(2, 0, 1), expected), (i, y, x, flipped)


def test_leaves_the_data_set_alone():
    images = torch.full((2, 8, 8, 3), 7, dtype=torch.uint8)
    zero = torch.zeros(2, dtype=torch.int64)
    augment_batch(images, torch.arange(2), zero, zero, torch.tensor([False, True]), 2)
    assert (images == 7).all()


def _corner_images(n, size):
    """n equal images whose green and blue pixels hold their own row and column, both counted from 1."""
    row = torch.arange(1, size + 1, dtype=torch.uint8)
    image = torch.stack([torch.full((size, size), 255), row[:, None].expand(size, size), row.expand(size, size)], dim=2)
    return ArrayImages(image.to(torch.uint8).expand(n, size, size, 3).contiguous(), torch.zeros(n, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["device", "torch"])
def test_offsets_are_uniform_and_half_is_flipped(kind):
    """Every (offset, flip) is read back from the pixels: a central pixel tells which source pixel it shows."""
    n, size, padding = 1500, 16, 2
    images = _corner_images(n, size)
    data = Data("corners", ["only"], size, (0.0,) * 3, (1.0,) * 3, flip=True, train=images, val=images, test=images)
    loader = make_loader(data, images, kind=kind, batch_size=500, train=True, device="cpu", seed=3)
    pixels = torch.cat([batch.images for batch in loader]).mul(255).round().long()  # (N, 3, H, W)
    column = pixels[:, 2, 8]  # (N, W) source columns, from 1, of the middle row
    flipped = column[:, 9] < column[:, 8]
    x = torch.where(flipped, column[:, 7], column[:, 8]) - 9  # crop offset - padding; 7 is 8 seen in the mirror
    y = pixels[:, 1, 8, 8] - 9
    assert abs(flipped.float().mean() - 0.5) < 0.05
    for offset in (y, x):
        counts = torch.bincount(offset + padding, minlength=2 * padding + 1)
        assert len(counts) == 2 * padding + 1
        chi_square = ((counts - n / 5) ** 2 / (n / 5)).sum()
        assert chi_square < 13.3, counts  # 4 degrees of freedom: 99 %
    assert torch.corrcoef(torch.stack([y, x, flipped.long()]).float()).triu(1).abs().max() < 0.08


def test_no_flip_where_a_mirrored_image_is_another(digits):
    loader = make_loader(digits, digits.train, kind="device", batch_size=200, train=True, device="cpu")
    shown = next(iter(loader))
    mean, std = torch.tensor(digits.mean).view(3, 1, 1), torch.tensor(digits.std).view(3, 1, 1)
    pixels = (shown.images * std + mean).mul(255).round().to(torch.uint8)
    order, generator = epoch_order(len(digits.train), True, 0, 0)
    y, x = torch.randint(0, 9, (2, len(order)), generator=generator)[:, :200]
    never = torch.zeros(200, dtype=torch.bool)
    expected = augment_batch(digits.train.array(), order[:200], y, x, never, 4)
    assert torch.equal(pixels, expected.permute(0, 3, 1, 2))
