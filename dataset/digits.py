"""scikit-learn's 1,797 handwritten digits: real images that need no download."""
import torch
import torch.nn.functional as F

from dataset.data import ArrayImages, Data, channel_stats


def build(data_dir, image_size, cache_dir):
    """`Data` of 1,437 training and 360 test digits, enlarged from 8x8 to image_size pixels (None: 32).

    There is no flip, because a mirrored digit is not a digit. data_dir and cache_dir are not used.
    """
    from sklearn.datasets import load_digits  # here, because it takes 0.9 s to import

    digits = load_digits()
    size = image_size or 32
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)  # (N, 1, 8, 8), 0..16 -> 0..255
    grey = F.interpolate(grey, size=(size, size), mode="bilinear", antialias=True)
    pixels = grey.round().clamp(0, 255).to(torch.uint8)
    array = pixels.permute(0, 2, 3, 1).repeat(1, 1, 1, 3)  # (N, 1, S, S) -> (N, S, S, 3)
    targets = torch.from_numpy(digits.target).long()

    # The test set is every fifth digit of the list sorted by class: stratified, and fixed without a random generator.
    by_class = targets.argsort(stable=True)
    is_test = torch.zeros(len(targets), dtype=torch.bool)
    is_test[by_class[::5]] = True
    train = ArrayImages(array[~is_test], targets[~is_test])
    test = ArrayImages(array[is_test], targets[is_test])
    mean, std = channel_stats(train.array().numpy())
    return Data("digits", [str(d) for d in range(10)], size, mean, std, flip=False, train=train, val=test, test=test)
