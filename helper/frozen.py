"""Prepares a frozen network for many forward passes: folds BatchNorm into convolutions, casts weights once."""
import sys
from collections import Counter
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from errors import UsageError
from helper.device import PRECISIONS

TOLERANCE = 1e-6  # relative to a feature's largest value; far above float64's rounding, in which folding is checked


def prepare_teacher(teacher, device, image_size):
    """A copy of a network that computes the same features and logits, up to rounding, with less work.

    Each BatchNorm that is the only consumer of a convolution is folded into it; other BatchNorms stay, in float32.
    Convolutions and linear layers hold their weights in the device's precision; otherwise autocast would cast them in
    every step. Run the copy as the original, in device.autocast().

    Prepare the copy after the method is built, for the objective only: methods copy the classifier in float32, and
    weights_hash is the original's.

    Args:
        teacher: a network of the zoo, which is not changed; None returns None.
        device: helper.device.Device.
        image_size: of the images to come, in pixels.

    Returns:
        The copy, frozen and in eval mode, with the original's class, forward contract and layer names.
    """
    if teacher is None:
        return None
    prepared = fold_norms(teacher, image_size).to(device.device, memory_format=torch.channels_last)
    for layer in prepared.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(PRECISIONS[device.precision])
    return prepared


@torch.no_grad()
def fold_norms(model, image_size):
    """A frozen copy of `model`, in eval mode, whose foldable BatchNorms are replaced by nn.Identity.

    Folding is computed in float64 and checked in float64 on one image of noise. If the check fails (weights that are
    not finite, or a network whose layers depend on the image), the copy keeps every BatchNorm and a note is printed.

    image_size: of the images to come, in pixels.
    """
    plain = deepcopy(model).eval().requires_grad_(False)
    folded = deepcopy(plain).double()
    images = torch.randn(1, 3, image_size, image_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = images.to(next(folded.parameters()).device)
    expected = _outputs(folded, images)
    for conv, norm in _foldable(folded, images):
        layers = folded.get_submodule(conv), folded.get_submodule(norm)
        folded.set_submodule(conv, fuse_conv_bn_eval(*layers).requires_grad_(False))
        folded.set_submodule(norm, nn.Identity())
    for output, original in zip(_outputs(folded, images), expected, strict=True):
        if not (output - original).abs().max() <= TOLERANCE * original.abs().max():  # NaN too
            print(f"note: {model.name} with BatchNorm folded differs: it is run as it is", file=sys.stderr)
            return plain
    return folded.to(next(plain.parameters()).dtype)


def _outputs(model, images):
    """All outputs of `model`: maps, embedding, the same with maps before the ReLU if it has these, and logits."""
    feats, logits = model(images, is_feat=True)
    try:
        before, _ = model(images, is_feat=True, preact=True)
    except UsageError:
        before = []
    return [*feats, *before, logits]


def _foldable(model, images):
    """[(name of a convolution, name of a BatchNorm)] where the BatchNorm is the only consumer of the convolution's
    output, and reads nothing else, in every call."""
    names = {layer: name for name, layer in model.named_modules()}
    made, read, calls = {}, [], Counter()  # made: {id of a tensor: (the tensor, to keep its id in use, its layer)}

    def after_convolution(layer, args, output):
        made[id(output)] = output, layer
        calls[layer] += 1

    def before_norm(layer, args):
        read.append((id(args[0]), layer))
        calls[layer] += 1

    hooks = [layer.register_forward_hook(after_convolution) for layer in names if isinstance(layer, nn.Conv2d)]
    hooks += [layer.register_forward_pre_hook(before_norm) for layer in names
              if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None]
    with _Readers() as readers:
        readers.see(_outputs(model, images))
    for hook in hooks:
        hook.remove()
    pairs = Counter((made[key][1], norm) for key, norm in read if key in made and readers.count[key] == 1)
    return [(names[conv], names[norm]) for (conv, norm), times in pairs.items() if times == calls[conv] == calls[norm]]


class _Readers(TorchDispatchMode):
    """A context that counts the operations that read each tensor, by the tensor's id."""

    def __init__(self):
        super().__init__()
        self.count, self.kept = Counter(), []

    def see(self, values):
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        self.count.update(map(id, tensors))
        self.kept += tensors  # so that no id is used again

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.see((args, kwargs))
        return func(*args, **(kwargs or {}))
