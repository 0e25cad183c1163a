"""torchvision's classifiers, unchanged, with the forward contract of models.base.Backbone.

state_dict names are torchvision's, so its published weights load.
"""
from functools import partial

import torch
import torchvision
from torch import fx, nn
from torchvision.models.resnet import BasicBlock

from errors import UsageError
from models.tracing import as_map, last_of_each_size, layout, node_names, output_shapes, trace, weightless


class TorchvisionNet(nn.Module):
    """model(x) -> logits; model(x, is_feat=True) -> ([stem map, stage maps ..., embedding], logits).

    Maps are (B, C, H, W), including those of Swin (channels-last inside) and of vision transformers (patch tokens).
    The embedding (B, D) is the input of the final nn.Linear, or the average of the last map if there is no final
    nn.Linear.

    Args:
        name: the registered name.
        net: torchvision's network.
    """

    def __init__(self, name, net):
        super().__init__()
        self.name = name
        nodes = node_names(net)
        linear = nodes[-1] if isinstance(dict(net.named_modules()).get(nodes[-1]), nn.Linear) else None
        self.head = linear and f"net.{linear}"
        stages, self.neck = stage_nodes(net, nodes)

        outputs = {node: f"map{i}" for i, node in enumerate(stages)} | {nodes[-1]: "logits"}
        if linear:
            outputs[nodes[-2]] = "embedding"
        self.net = trace(net, outputs)
        shapes = output_shapes(self.net)
        self.layouts = [layout(shapes[f"map{i}"]) for i in range(len(stages))]

        end_of_stages = max(i for i, node in enumerate(nodes) if f"{node}.".startswith(f"{stages[-1]}."))
        self.averages = bool(self.neck) or weightless(net, nodes[end_of_stages + 1 : -1])
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    def forward(self, x, is_feat=False, preact=False, depth=None):
        """As models.base.Backbone, but it computes everything at every depth.

        Raises UsageError for preact, because the graph does not say where a stage's last ReLU is.
        """
        if preact:
            raise UsageError(f"model '{self.name}' has no pre-activation features: choose a method that needs none")
        out = self.net(x)
        if not is_feat:
            return out["logits"]
        maps = [as_map(out[f"map{i}"], layout) for i, layout in enumerate(self.layouts)]
        if depth is not None:
            return maps[:depth], None
        embedding = out["embedding"] if self.head else maps[-1].mean((2, 3))
        return [*maps, embedding], out["logits"]

    def pooled_map(self, f):
        """The map whose global average is the embedding, from f = feats[-2]: (B, C, H, W) -> (B, D, H, W).

        Raises UsageError if the embedding is not such an average (VGG, MobileNetV3, ConvNeXt, ViT ...).
        """
        if not self.averages:
            raise UsageError(f"the classifier of model '{self.name}' reads no averaged map: choose another network")
        for layer in self.neck:
            f = self.net.get_submodule(layer)(f)
        return f


def stage_nodes(net, nodes):
    """([nodes of the stem map and the stage maps], [layers between the last of them and the averaged map]).

    nodes: node_names(net).
    """
    models = torchvision.models
    if isinstance(net, models.ResNet):  # as SimKD: the stem map is the one after the max-pool
        return ["maxpool", "layer1", "layer2", "layer3", "layer4"], []
    if isinstance(net, models.MobileNetV2):  # as SimKD: the deepest map is the one before the last 1x1 convolution
        return [f"features.{i}" for i in (0, 3, 6, 13, 17)], [f"features.18.{i}" for i in range(3)]
    if isinstance(net, models.VisionTransformer):  # all maps have one size: take one at each quarter of the depth
        depth = len(net.encoder.layers)
        quarters = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        return ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in quarters)], []
    return last_of_each_size(output_shapes(trace(net, nodes[1:]))), []


def names():
    """Names of torchvision's classifiers."""
    return torchvision.models.list_models(module=torchvision.models)


def build(name, num_classes, registered=None):
    """A TorchvisionNet: torchvision's network `name`, untrained, with num_classes outputs.

    registered: its name here; None for torchvision/NAME.
    Raises UsageError for a network that cannot be traced.
    """
    # By default GoogLeNet and Inception return auxiliary logits too, and warn that their initialisation may change.
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = partial(torchvision.models.get_model, name, weights=None, **options)
    return _with_features(registered or f"torchvision/{name}", network, num_classes)


class DoubleBlock(BasicBlock):
    """A basic block with twice its stage's width."""

    expansion = 2

    def __init__(self, inplanes, planes, *args, **kwargs):
        super().__init__(inplanes, self.expansion * planes, *args, **kwargs)


def double_resnet(layers, num_classes, registered):
    """SimKD's ResNet10x2, ResNet18x2, ResNet34x2: a torchvision ResNet whose stages (not the stem) are twice as wide.

    layers: blocks of each stage. registered: the network's name here.
    """
    return _with_features(registered, partial(torchvision.models.ResNet, DoubleBlock, layers), num_classes)


def _with_features(name, build, num_classes):
    device = torch.get_default_device()
    with torch.device("cpu"):  # RegNet computes its widths with tensors, which fails under torch.device("meta")
        net = build(num_classes=num_classes)
    try:
        return TorchvisionNet(name, net.to(device))
    except (fx.proxy.TraceError, ValueError) as error:
        raise UsageError(f"model '{name}' cannot be traced for its features: {error}") from error


def _drop_prefix(module, state_dict, prefix, _metadata):
    inner = f"{prefix}net."
    for key in [key for key in state_dict if key.startswith(inner)]:
        state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)


def _add_prefix(module, state_dict, prefix, *_):
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[f"{prefix}net.{key.removeprefix(prefix)}"] = state_dict.pop(key)
