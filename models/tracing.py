"""Features of a network that does not return them: torch.fx traces its graph, which gets further outputs.

The outputs of a graph are ordinary return values, so they work with DataParallel and torch.compile; those of forward
hooks do not. Nodes are named by module path as in torchvision.models.feature_extraction.
"""
import math

import torch
from torch import fx
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention

from models.probe import on_meta

PROBE_SHAPE = (2, 3, 224, 224)  # (B, C, H, W)
# If it were traced into, MaxViT's attention would lose its index buffers, which are in the published state_dict.
LEAVES = {"leaf_modules": [RelativePositionalMultiHeadAttention]}


def node_names(net):
    """Names of net's operations in the order of execution. The first is the image; the last returns the logits."""
    return get_graph_node_names(net, tracer_kwargs=LEAVES, suppress_diff_warning=True)[1]


def trace(net, outputs):
    """A module that shares net's parameters and returns {key: output of a node}. outputs: {node name: key}."""
    extractor = create_feature_extractor(net, outputs, tracer_kwargs=LEAVES, suppress_diff_warning=True)
    # The extractor holds a graph for each mode, but its deep copies return to training mode. One graph is enough:
    # modules keep their own mode in it, and the graphs differ only in functional dropouts of probability zero.
    return fx.GraphModule(extractor, extractor.eval_graph).train(net.training)


def output_shapes(traced):
    """{name: shape} of the tensors among traced's outputs, for two images of PROBE_SHAPE, on the meta device."""
    outputs = on_meta(traced, torch.empty(PROBE_SHAPE, device="meta"))
    return {name: tuple(out.shape) for name, out in outputs.items() if isinstance(out, torch.Tensor)}


def last_of_each_size(shapes):
    """[Last node at each spatial size], from {node name: shape} in the order of execution.

    Nodes in the middle of a block are skipped: a block that reduces the map has nodes of two sizes, and those of the
    larger size (such as MobileNet's expansion) are not the output of the stage before it.
    """
    sizes = {}
    smallest = PROBE_SHAPE[-1]
    for node, shape in shapes.items():
        size = map_size(shape)
        if 1 < size <= smallest:  # a larger one is not a map: MaxViT's attention windows may form a square
            sizes[node] = smallest = size
    inside = {}  # module -> sizes of the nodes in it
    for node, size in sizes.items():
        for module in enclosing(node):
            inside.setdefault(module, set()).add(size)
    last = {}
    for node, size in sizes.items():
        blocks = [inside[module] for module in enclosing(node) if len(inside[module]) == 2]
        if all(size == min(block) for block in blocks):
            last[size] = node
    return list(last.values())


def enclosing(node):
    """Names of the modules around a node: a.b.c -> [a, a.b]."""
    parts = node.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def layout(shape):
    """The layout of the probe images' maps in a tensor of this shape, or None if it holds no maps."""
    if not shape or shape[0] != PROBE_SHAPE[0]:
        return None
    if len(shape) == 3:
        return "tokens"  # (B, 1 + HW, C)
    if len(shape) == 4 and shape[2] == shape[3]:
        return "channels first"  # (B, C, H, W)
    if len(shape) == 4 and shape[1] == shape[2]:
        return "channels last"  # (B, H, W, C)
    return None


def map_size(shape):
    """Height of a square map, 0 for other shapes. Tokens give 0: all their maps have one size."""
    if layout(shape) == "channels first":
        return shape[2]
    if layout(shape) == "channels last":
        return shape[1]
    return 0


def as_map(f, layout):
    """The map (B, C, H, W) in f, which has the given layout. A class token is dropped."""
    if layout == "channels last":
        return f.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
    if layout == "tokens":
        side = math.isqrt(f.shape[1] - 1)
        return f[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # (B, 1 + HW, C) -> (B, C, HW) -> (B, C, H, W)
    return f


def weightless(net, nodes):
    """Whether none of the operations `nodes` of `net` has weights of its own."""
    modules = dict(net.named_modules())
    owners = [modules.get(node) or modules[node.rpartition(".")[0]] for node in nodes]
    return not any(list(owner.parameters(recurse=False)) for owner in owners)
