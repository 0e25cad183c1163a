"""Auxiliary classifiers (heads) on the stage maps of a network: DIH's (flat), MHKD's (conv) and TOFD's (sepconv).

Their papers: arXiv 2103.00497, arXiv 2012.02911, NeurIPS 2020 (Task-Oriented Feature Distillation). Each head is an
nn.Module, map (B, C, H, W) -> logits (B, K). The layers of conv heads have their published names. `Heads` holds the
heads of several stages.
"""
from copy import deepcopy
from itertools import pairwise

from torch import nn
from torch.nn import functional as F

from errors import UsageError, unknown
from models.base import conv1x1, conv3x3, init_convolutions
from models.norm import BatchNorm2d


class FlatHead(nn.Module):
    """One linear layer on the flattened map: every position has weights of its own.

    Args:
        shape: (C, H, W) of the map; the weights fit this size only.
        num_classes: K.
        pool: a map larger than pool x pool is first average-pooled to that size. None, as published, uses the whole
            map. Early in a network the head then has more weights than the network: after resnet8's first stage 1.6
            million at K = 100, while resnet8 has 84 thousand.

    Shapes: f (B, C, H, W) -> logits (B, K).
    """

    def __init__(self, shape, num_classes, pool=None):
        super().__init__()
        channels, *size = shape
        pooled = [min(side, pool or side) for side in size]
        self.pool = nn.Identity() if pooled == size else _average_pool(size, pooled)
        self.linear = nn.Linear(channels * pooled[0] * pooled[1], num_classes)

    def forward(self, f):
        return self.linear(self.pool(f).flatten(1))  # (B, C, H, W) -> (B, CHW)


def _average_pool(size, pooled):
    steps = [side // short for side, short in zip(size, pooled, strict=True)]
    if [step * short for step, short in zip(steps, pooled, strict=True)] == size:
        return nn.AvgPool2d(steps)  # the same averages, and --deterministic refuses the adaptive ones' gradient
    return nn.AdaptiveAvgPool2d(pooled)


class ConvHead(nn.Module):
    """Two 3x3 convolutions of 256 channels, a global average, a linear layer of 256 units and the classifier.

    The convolutions are padded only where the map would vanish: the first one for maps below 5x5, as published for
    ResNet34's 4x4, and the second one for maps below 3x3.

    Args:
        shape: (C, H, W) of the map.
        num_classes: K.

    Shapes: f (B, C, H, W) -> logits (B, K).
    """

    def __init__(self, shape, num_classes):
        super().__init__()
        channels, side, width = shape[0], min(shape[1:]), 256
        self.conv_1 = nn.Conv2d(channels, width, 3, padding=int(side < 5), bias=False)
        self.bn_1 = BatchNorm2d(width)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=int(side < 3), bias=False)
        self.bn_2 = BatchNorm2d(width)
        self.linear_1 = nn.Linear(width, width)
        self.linear_2 = nn.Linear(width, num_classes)

    def forward(self, f):
        f = F.relu(self.bn_1(self.conv_1(f)), inplace=True)
        f = F.relu(self.bn_2(self.conv_2(f)), inplace=True)
        return self.linear_2(F.relu(self.linear_1(f.mean((2, 3)))))  # (B, C, H, W) -> (B, C) -> (B, K)


class SepConv(nn.Sequential):
    """Two depthwise-separable convolutions that halve the map.

    Shapes: f (B, c_in, H, W) -> (B, c_out, H/2, W/2), rounded up.
    """

    def __init__(self, c_in, c_out):
        super().__init__(
            conv3x3(c_in, c_in, stride=2, groups=c_in), conv1x1(c_in, c_in), BatchNorm2d(c_in), nn.ReLU(inplace=True),
            conv3x3(c_in, c_in, groups=c_in), conv1x1(c_in, c_out), BatchNorm2d(c_out), nn.ReLU(inplace=True),
        )


class SepConvHead(nn.Module):
    """One SepConv per following stage, with that stage's width, then a global average and one linear layer.

    The head of the last stage has no SepConv: average and linear layer only.

    Args:
        shapes: (C, H, W) of the map and of every following stage's map; D is the last one's C.
        num_classes: K.

    Shapes: f (B, C, H, W) -> logits (B, K); `feature` returns the input of the linear layer, (B, D).
    """

    def __init__(self, shapes, num_classes):
        super().__init__()
        widths = [channels for channels, *_ in shapes]
        self.branch = nn.Sequential(*(SepConv(*pair) for pair in pairwise(widths)))
        self.linear = nn.Linear(widths[-1], num_classes)
        init_convolutions(self)

    def feature(self, f):
        return self.branch(f).mean((2, 3))  # (B, D, H, W) -> (B, D)

    def forward(self, f):
        return self.linear(self.feature(f))


HEAD_TYPES = {  # arguments: shapes of the map and of the following stages' maps, number of classes, FlatHead's pool
    "flat": lambda shapes, num_classes, pool: FlatHead(shapes[0], num_classes, pool),
    "conv": lambda shapes, num_classes, pool: ConvHead(shapes[0], num_classes),
    "sepconv": lambda shapes, num_classes, pool: SepConvHead(shapes, num_classes),
}


class Heads(nn.ModuleDict):
    """One auxiliary classifier on each of several stages. heads["2"] is stage 2's; its state_dict keys begin with "2.".

    Args:
        shapes: (C, H, W) of every stage map, shallow to deep: feature_shapes(model, image_size)[1:-1].
        stages: the stages that get a head, in any order, counted from 1, the shallowest; None for all.
        num_classes: K.
        kind: a key of HEAD_TYPES.
        pool: FlatHead's, for flat heads only.

    All but num_classes are attributes; `stages` is a sorted list.

    Shapes: maps, a list of the stage maps (B, C, H, W), as in Features.maps, up to the deepest head's at least -> list
        of logits (B, K), shallow to deep.

    Raises:
        UsageError: no stages, a stage that does not exist or is named twice, an unknown kind, or a pool for another
            kind than flat.
        ValueError (when called): too few or too many maps.
    """

    def __init__(self, shapes, stages, num_classes, kind="flat", pool=None):
        super().__init__()
        if kind not in HEAD_TYPES:
            raise unknown("kind of head", kind, HEAD_TYPES)
        if pool is not None and kind != "flat":
            raise UsageError(f"{kind} heads pool in their own way: leave out the pooling, or take flat heads")
        self.shapes, self.kind, self.pool = shapes, kind, pool
        self.stages = _checked_stages(dict(enumerate(shapes, 1)), stages)
        for stage in self.stages:
            self[str(stage)] = HEAD_TYPES[kind](shapes[stage - 1:], num_classes, pool)

    def forward(self, maps):
        return [head(f) for head, f in self._pairs(maps)]

    def features(self, maps):
        """([feature (B, D) of each head], [logits (B, K) of each]), shallow to deep. For sepconv heads only."""
        features = [head.feature(f) for head, f in self._pairs(maps)]
        return features, [head.linear(e) for head, e in zip(self.values(), features, strict=True)]

    def _pairs(self, maps):
        if not self.stages[-1] <= len(maps) <= len(self.shapes):
            raise ValueError(f"heads on stages {self.stages} of {len(self.shapes)} got {len(maps)} maps")
        return [(self[str(stage)], maps[stage - 1]) for stage in self.stages]

    def only(self, stages):
        """A copy with the heads of `stages` only; None for all. Raises UsageError for a stage without a head."""
        chosen = deepcopy(self)
        chosen.stages = _checked_stages({stage: self.shapes[stage - 1] for stage in self.stages}, stages)
        for stage in set(self.stages) - set(chosen.stages):
            del chosen[str(stage)]
        return chosen


def _checked_stages(shapes, stages):
    """`stages`, sorted; None gives all of `shapes`, {stage: shape}. Raises UsageError, naming the existing ones."""
    if stages is None:
        return list(shapes)
    existing = ", ".join(f"{stage} ({'x'.join(map(str, shape))})" for stage, shape in shapes.items())
    for stage in stages:
        if stage not in shapes:
            raise UsageError(f"there is no stage {stage} for a head: choose from {existing}")
    if len(stages) == 0 or len(set(stages)) < len(stages):
        listed = " ".join(map(str, stages))
        wrong = f"stages {listed}: one is named twice" if listed else "no stage is named for a head"
        raise UsageError(f"{wrong}: choose each once from {existing}")
    return sorted(stages)
