"""The registry of networks: `model_dict` maps a name to a constructor that takes `num_classes`.

SOURCES lists the libraries whose networks are named PREFIX/NAME.

To add a network, write a file with a subclass of models.base.Backbone and add a line to `model_dict`.
"""
from functools import cache, partial
from importlib import import_module

from errors import unknown
from models.mobilenetv2 import MobileNetV2
from models.resnet import ResNet
from models.resnet4 import BasicBlock, Bottleneck, ResNet4
from models.shufflenetv1 import ShuffleNetV1
from models.shufflenetv2 import ShuffleNetV2
from models.vgg import VGG
from models.wrn import WideResNet

# PREFIX -> the module with `names()` of its networks and `build(name, num_classes, registered=None)`. A module is
# imported when one of its networks is requested: torchvision's takes more than a second.
SOURCES = {"torchvision": "models.torchvision_nets"}


def _torchvision(name, num_classes, registered):
    return _source("torchvision").build(name, num_classes, registered)


def _double_resnet(layers, registered, num_classes):
    from models.torchvision_nets import double_resnet

    return double_resnet(layers, num_classes, registered)


_X2 = (16, 32, 64, 128)
_X4 = (32, 64, 128, 256)

model_dict = {
    "resnet8": partial(ResNet, 8),
    "resnet14": partial(ResNet, 14),
    "resnet20": partial(ResNet, 20),
    "resnet32": partial(ResNet, 32),
    "resnet38": partial(ResNet, 38),
    "resnet44": partial(ResNet, 44),
    "resnet56": partial(ResNet, 56),
    "resnet110": partial(ResNet, 110),
    "resnet116": partial(ResNet, 116),
    "resnet14x2": partial(ResNet, 14, _X2),
    "resnet38x2": partial(ResNet, 38, _X2),
    "resnet110x2": partial(ResNet, 110, _X2),
    "resnet8x4": partial(ResNet, 8, _X4),
    "resnet14x4": partial(ResNet, 14, _X4),
    "resnet32x4": partial(ResNet, 32, _X4),
    "resnet38x4": partial(ResNet, 38, _X4),
    "ResNet18": partial(ResNet4, BasicBlock, (2, 2, 2, 2)),
    "ResNet34": partial(ResNet4, BasicBlock, (3, 4, 6, 3)),
    "ResNet50": partial(ResNet4, Bottleneck, (3, 4, 6, 3)),
    "ResNet101": partial(ResNet4, Bottleneck, (3, 4, 23, 3)),
    "ResNet152": partial(ResNet4, Bottleneck, (3, 8, 36, 3)),
    "wrn_16_1": partial(WideResNet, 16, 1),
    "wrn_16_2": partial(WideResNet, 16, 2),
    "wrn_28_2": partial(WideResNet, 28, 2),
    "wrn_40_1": partial(WideResNet, 40, 1),
    "wrn_40_2": partial(WideResNet, 40, 2),
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
    "MobileNetV2": partial(MobileNetV2, 0.5),
    "MobileNetV2_1_0": partial(MobileNetV2, 1.0),
    "ShuffleV1": ShuffleNetV1,
    "ShuffleV2": partial(ShuffleNetV2, (116, 232, 464)),
    "ShuffleV2_1_5": partial(ShuffleNetV2, (176, 352, 704)),
    # SimKD's networks for ImageNet: a 7x7 stem of stride 2 and a max-pool.
    "resnext50_32x4d": partial(_torchvision, "resnext50_32x4d", registered="resnext50_32x4d"),
    "wrn_50_2": partial(_torchvision, "wide_resnet50_2", registered="wrn_50_2"),
    "ResNet10x2": partial(_double_resnet, (1, 1, 1, 1), "ResNet10x2"),
    "ResNet18x2": partial(_double_resnet, (2, 2, 2, 2), "ResNet18x2"),
    "ResNet34x2": partial(_double_resnet, (3, 4, 6, 3), "ResNet34x2"),
    "MobileNetV2_Imagenet": partial(_torchvision, "mobilenet_v2", registered="MobileNetV2_Imagenet"),
    "ShuffleV2_Imagenet": partial(_torchvision, "shufflenet_v2_x1_0", registered="ShuffleV2_Imagenet"),
}

# Networks that have torchvision's layout on ImageNet (create_model's imagenet=True) and the CIFAR stem otherwise.
IMAGENET_LAYOUT = {name: name.lower() for name in ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152")}

aliases = {  # the DIH repository's names
    "res8": "resnet8",
    "res14": "resnet14",
    "res20": "resnet20",
    "res110": "resnet110",
    "res18": "ResNet18",
    "res34": "ResNet34",
    "WR-28-2": "wrn_28_2",
}
model_dict |= {alias: model_dict[name] for alias, name in aliases.items()}


def create_model(name, num_classes, imagenet=False):
    """A new network with num_classes outputs. Its attribute `name` is the registered name, with aliases resolved.

    name: a key of model_dict, or PREFIX/NAME for a network of one of the SOURCES, such as torchvision/resnet18.
    imagenet: build ResNet18 ... ResNet152 with torchvision's layout instead of the CIFAR stem.
    Raises UsageError for an unknown name, naming the nearest ones.
    """
    name = canonical(name)
    if from_source(name):
        prefix, _, own = name.partition("/")
        check_name(name)
        return _source(prefix).build(own, num_classes)
    if name not in model_dict:
        raise unknown("model", name, model_dict)
    if imagenet and name in IMAGENET_LAYOUT:
        return _torchvision(IMAGENET_LAYOUT[name], num_classes, registered=name)
    model = model_dict[name](num_classes=num_classes)
    model.name = name
    return model


def canonical(name):
    """The registered name of an alias; other names are unchanged."""
    return aliases.get(name, name)


def from_source(name):
    """Whether `name` is PREFIX/NAME for one of the SOURCES. NAME need not exist there."""
    return "/" in name and name.partition("/")[0] in SOURCES


def is_known(name):
    """Whether `name` may be a network: a key of model_dict, or any name with the prefix of one of the SOURCES."""
    return name in model_dict or from_source(name)


def check_name(name):
    """Raises UsageError, naming the nearest names, unless create_model knows `name`. Builds nothing."""
    if from_source(name):
        prefix, _, own = name.partition("/")
        if own not in _source(prefix).names():
            raise unknown("model", name, [f"{prefix}/{known}" for known in _source(prefix).names()])
    elif name not in model_dict:
        raise unknown("model", name, model_dict)


def spellings(text):
    """{spelling in a path: name} of the networks that the path `text` may name.

    PREFIX.NAME, the spelling of run directories, stands for PREFIX/NAME. A source is imported only if `text` has its
    prefix.
    """
    found = {name: name for name in model_dict}
    for prefix in SOURCES:
        if f"{prefix}." in text:
            found = {f"{prefix}.{name}": f"{prefix}/{name}" for name in _source(prefix).names()}
    return found


@cache
def _source(prefix):
    return import_module(SOURCES[prefix])


def default_learning_rate(name):
    """Initial SGD learning rate for batch size 64, as published (RepDistiller, SimKD).

    0.01 for the CIFAR MobileNets and ShuffleNets, 0.05 for the others.
    """
    small = name.startswith(("MobileNetV2", "ShuffleV1", "ShuffleV2")) and not name.endswith("_Imagenet")
    return 0.01 if small else 0.05
