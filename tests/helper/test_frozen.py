"""The prepared teacher: what it gives is what the teacher gives."""
import pytest
import torch
from torch import nn

from helper.device import Device
from helper.frozen import fold_norms, prepare_teacher
from models import create_model
from models.base import Backbone
from models.probe import weights_hash

BF16 = Device(torch.device("cpu"), [], "bf16")
UNFOLDED = {"wrn_16_2": 7}  # BatchNorms that read a sum, or a map that is handed out too
NETWORKS = ["resnet20", "resnet8x4", "ResNet18", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2",
            "torchvision/resnet18", "torchvision/mobilenet_v3_small"]


def with_statistics(model):
    """The network with a BatchNorm that does something, frozen."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return model.eval().requires_grad_(False)


def outputs(model, images):
    with torch.no_grad():
        feats, logits = model(images, is_feat=True)
    return [*feats, logits]


def error(found, expected):
    return max(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def count_norms(model):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture(name):
    teacher, images = with_statistics(create_model(name, 10)), torch.randn(4, 3, 32, 32)
    expected, before = outputs(teacher, images), weights_hash(teacher)
    folded = fold_norms(teacher, 32)
    assert error(outputs(folded, images), expected) < 1e-5
    assert count_norms(folded) == UNFOLDED.get(name, 0) < count_norms(teacher)
    prepared = prepare_teacher(teacher, BF16, 32)
    with BF16.autocast():
        plain, fast = outputs(teacher, images), outputs(prepared, images)
    assert error(fast, expected) < 1.5 * error(plain, expected)  # both are bf16's roundings away from float32
    assert weights_hash(teacher) == before
    assert not prepared.training
    assert not any(p.requires_grad for p in prepared.parameters())
    assert prepared.fc.weight.dtype == torch.bfloat16 if hasattr(prepared, "fc") else True


class Shared(Backbone):
    """One BatchNorm reads the convolution, and so does the sum; another runs twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.again = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.bn, self.twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 10)

    def trunk(self, x):
        f = self.conv(x)
        f = f + self.bn(f)
        yield f, None
        f = self.twice(self.again(f)) + self.twice(f)
        yield f, f


def test_what_cannot_be_folded_stays():
    teacher = with_statistics(Shared())
    folded, images = fold_norms(teacher, 8), torch.randn(4, 3, 8, 8)
    assert count_norms(folded) == 2
    assert error(outputs(folded, images), outputs(teacher, images)) < 1e-6


def test_no_teacher():
    assert prepare_teacher(None, BF16, 32) is None


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("depth", [1, 3])
def test_a_teacher_stops_after_the_last_map_that_is_read(name, depth):
    teacher, images = with_statistics(create_model(name, 10)), torch.randn(2, 3, 32, 32)
    ran = []
    for layer in teacher.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda *_: ran.append(1))
    expected = outputs(teacher, images)
    whole = len(ran)
    with torch.no_grad():
        feats, logits = teacher(images, is_feat=True, depth=depth)
    assert logits is None
    assert error(feats, expected[:depth]) == 0
    assert len(feats) == depth
    assert len(ran) - whole < whole or name.startswith("torchvision/")
