"""torchvision's networks: unchanged values and names, maps found in their graphs."""
import copy

import pytest
import torch
import torchvision
from torch import nn

from errors import UsageError
from models import create_model, feature_shapes, get_classifier, load_model
from models.tracing import last_of_each_size

MAPS_AT_224 = {
    "resnet18": [(64, 56), (64, 56), (128, 28), (256, 14), (512, 7)],
    "mobilenet_v2": [(32, 112), (24, 56), (32, 28), (96, 14), (320, 7)],
    "mobilenet_v3_small": [(16, 112), (16, 56), (24, 28), (48, 14), (576, 7)],
    "efficientnet_b0": [(16, 112), (24, 56), (40, 28), (112, 14), (1280, 7)],
    "densenet121": [(64, 112), (256, 56), (512, 28), (1024, 14), (1024, 7)],
    "swin_t": [(96, 56), (192, 28), (384, 14), (768, 7)],
    "vit_b_32": [(768, 7)] * 5,
}
AVERAGES = {"resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "swin_t"}


@torch.no_grad()
@pytest.mark.parametrize("name", MAPS_AT_224)
def test_same_network_with_features(name):
    """The original's values and state_dict; maps of every stage; the classifier applied to the embedding."""
    original = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
    model = create_model(f"torchvision/{name}", 5).eval()
    assert model.name == f"torchvision/{name}"
    assert sorted(model.state_dict()) == sorted(original.state_dict())
    model.load_state_dict(original.state_dict())
    original.load_state_dict(model.state_dict())

    assert feature_shapes(model, 224)[:-1] == [(c, s, s) for c, s in MAPS_AT_224[name]]
    size = 224 if name.startswith("vit") else 64
    x = torch.randn(1, 3, size, size)
    *maps, embedding = feats = model(x, is_feat=True)[0]
    logits = model(x)
    torch.testing.assert_close(logits, original(x))
    assert [tuple(f.shape[1:]) for f in feats] == feature_shapes(model, size)
    torch.testing.assert_close(get_classifier(model)(embedding), logits)
    if name in AVERAGES:
        torch.testing.assert_close(model.pooled_map(maps[-1]).mean((2, 3)), embedding)
    else:
        with pytest.raises(UsageError, match="reads no averaged map"):
            model.pooled_map(maps[-1])


def test_vision_transformer_maps_are_the_patches_in_place():
    """Map pixel (i, j) of a stage is the token of patch 7i + j, after the class token."""
    model = create_model("torchvision/vit_b_32", 5).eval()
    tokens = []
    model.net.get_submodule("encoder.ln").register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
    feats, _ = model(torch.randn(1, 3, 224, 224), is_feat=True)
    assert torch.equal(feats[-2][0, :, 2, 3], tokens[0][0, 1 + 2 * 7 + 3])
    with pytest.raises(UsageError, match="cannot take 32x32 images"):
        feature_shapes(model, 32)


def test_swin_maps_are_channels_first():
    model = create_model("torchvision/swin_t", 5)
    assert feature_shapes(model, 64)[:2] == [(96, 16, 16), (192, 8, 8)]


def test_training_copying_and_checkpoints(tmp_path):
    """Gradients reach every parameter; a deep copy keeps its mode; a checkpoint has torchvision's names."""
    model = create_model("torchvision/shufflenet_v2_x0_5", 5)
    x = torch.randn(4, 3, 64, 64)
    feats, logits = model(x, is_feat=True)
    (logits.sum() + sum(f.square().mean() for f in feats)).backward()
    assert all(p.grad is not None for p in model.parameters())
    twin = copy.deepcopy(model.eval())
    assert not any(module.training for module in twin.modules())
    assert torch.equal(twin(x), model(x))

    path = tmp_path / "torchvision.shufflenet_v2_x0_5_vanilla" / "last.pth"
    path.parent.mkdir()
    torch.save({"model": nn.DataParallel(model).state_dict()}, path)
    loaded = load_model(path, num_classes=5)
    assert loaded.name == "torchvision/shufflenet_v2_x0_5"
    assert torch.equal(loaded.eval()(x), model(x))


def test_imagenet_layout():
    with torch.device("meta"):
        model = create_model("ResNet18", 1000, imagenet=True)
    assert model.name == "ResNet18"
    assert "layer2.0.downsample.0.weight" in model.state_dict()
    assert feature_shapes(model, 224) == [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (512,)]


def test_networks_that_offer_less_say_so():
    with torch.device("meta"):
        squeezenet = create_model("torchvision/squeezenet1_1", 5)
    with pytest.raises(UsageError, match="no linear classifier"):
        get_classifier(squeezenet)
    assert feature_shapes(squeezenet, 64)[-1] == (5,)
    with pytest.raises(UsageError, match="no pre-activation features"):
        squeezenet(torch.empty(1, 3, 64, 64, device="meta"), is_feat=True, preact=True)


def test_last_of_each_size_passes_over_the_middle_of_a_block():
    shapes = {"stem": (2, 8, 112, 112), "block.expand": (2, 48, 112, 112), "block.reduce": (2, 48, 56, 56),
              "block.project": (2, 16, 56, 56), "bias": (1, 3, 49, 49), "windows": (2, 16, 64, 64),
              "pool": (2, 16, 1, 1), "flatten": (2, 16)}
    assert last_of_each_size(shapes) == ["stem", "block.project"]
