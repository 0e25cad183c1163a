"""Facts about a network: its classifier, the shapes of its features, a hash of its weights."""
import hashlib

import torch
from torch import nn
from torch.func import functional_call

from errors import UsageError


def unwrap(model):
    """The network inside DataParallel, DistributedDataParallel and torch.compile wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def get_classifier(model):
    """The final nn.Linear of a model of the zoo, wrapped or not: the layer from the embedding to the logits.

    Raises UsageError for a network that does not end in a linear layer (SqueezeNet's last layer is a convolution).
    """
    model = unwrap(model)
    if model.head is None:
        raise UsageError(f"model '{model.name}' has no linear classifier: choose one that ends in a linear layer")
    return model.get_submodule(model.head)


def feature_shapes(model, image_size):
    """Shapes of feats without the batch: [(C, H, W) of each map ..., (D,) of the embedding].

    It runs on the meta device, so weights, BatchNorm statistics, mode, gradients and random generators do not change.

    image_size: pixels a side.
    Raises UsageError if the network does not accept images of that size.
    """
    model = unwrap(model)
    dtype = next(model.parameters()).dtype
    # Two images, because BatchNorm in training mode refuses the 1x1 map of a single image.
    x = torch.empty(2, 3, image_size, image_size, dtype=dtype, device="meta")
    try:
        feats, _ = on_meta(model, x, is_feat=True)
    except (AssertionError, RuntimeError) as error:
        name, reason = getattr(model, "name", type(model).__name__), str(error).partition("\n")[0]
        raise UsageError(f"model '{name}' cannot take {image_size}x{image_size} images: {reason}") from error
    return [tuple(f.shape[1:]) for f in feats]


def pooled_shape(model, image_size):
    """(C, H, W) of the map whose average the classifier reads. Arguments and errors are those of feature_shapes."""
    (shape,) = feature_shapes(_PooledMap(unwrap(model)), image_size)
    return shape


class _PooledMap(nn.Module):
    """A network up to the map (B, C, H, W) whose average its classifier reads, for feature_shapes."""

    def __init__(self, network):
        super().__init__()
        self.network, self.name = network, network.name

    def forward(self, images, is_feat):
        return [self.network.pooled_map(self.network(images, is_feat=is_feat)[0][-2])], None


def check_batches(model, image_size, n_data, batch_size):
    """Raises UsageError if the network does not accept images of that size, or the last batch of an epoch.

    The last batch of n_data images is refused if it has one image and the network has 1x1 maps.
    """
    shapes = feature_shapes(model, image_size)
    if (n_data % batch_size or batch_size) == 1 and (1, 1) in [shape[1:] for shape in shapes]:
        raise UsageError(f"--batch_size {batch_size} leaves a last batch of one image, whose 1x1 maps in {model.name} "
                         f"BatchNorm cannot normalise: use {batch_size + 1}")


@torch.no_grad()
def on_meta(model, *args, **kwargs):
    """model(*args, **kwargs) with copies of its tensors on the `meta` device, which computes shapes only.

    The model's own tensors, on any device, are neither read nor written.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    stand_ins = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    return functional_call(model, stand_ins, args, kwargs)


def weights_hash(model):
    """Twelve hexadecimal digits that identify a network's weights: equal for equal state_dicts, on any device."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
