"""Every registered network: published sizes, names and values; the forward contract; what must not change."""
import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from errors import UsageError
from models import aliases, create_model, default_learning_rate, feature_shapes, get_classifier, model_dict

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "classic.json").read_text())["models"]
PUBLISHED = [key for key, case in GOLDEN.items() if "error" not in case]
WITH_VALUES = [key for key, case in GOLDEN.items() if "seed" in case]
NAMES = [name for name in model_dict if name not in aliases]


def golden_model(key, num_classes=100):
    source, name = key.split(":")
    return create_model(name, num_classes, imagenet=source == "sim" and name in ("ResNet18", "ResNet34", "ResNet50"))


def fill(model, seed):
    """The parameters of the golden recipe: drawn in the order of the sorted keys, running statistics left alone."""
    rs = np.random.RandomState(seed)
    state = model.state_dict()
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    norms |= {name.removeprefix("net.") for name in norms}
    for key in sorted(state):
        module, _, kind = key.rpartition(".")
        if kind in ("weight", "bias"):
            drawn = 0.1 * rs.randn(*state[key].shape)
            state[key] = torch.from_numpy((drawn + (module in norms and kind == "weight")).astype("float32"))
    model.load_state_dict(state)


def norms_of(feats):
    return [f.double().norm().item() for f in feats]


@pytest.mark.parametrize("key", PUBLISHED)
def test_parameters_and_state_dict_keys_are_the_published_ones(key):
    with torch.device("meta"):
        model = golden_model(key)
    assert sum(p.numel() for p in model.parameters()) == GOLDEN[key]["params"]
    assert sorted(model.state_dict()) == sorted(GOLDEN[key]["state_dict_keys"])


@torch.no_grad()
@pytest.mark.parametrize("key", WITH_VALUES)
def test_values_are_the_published_ones(key):
    case = GOLDEN[key]
    model = golden_model(key)
    fill(model, case["fill_seed"])
    x = torch.from_numpy(np.random.RandomState(case["seed"]).randn(*case["input"]["shape"]).astype("float32"))

    feats, logits = model.train()(x, is_feat=True)
    assert norms_of(feats) == pytest.approx(case["train_feat_l2"], rel=1e-5)
    # 4 images in a BatchNorm over 4x4 or 2x2 pixels: logits near zero are differences of large numbers.
    assert logits[0, :4].tolist() == pytest.approx(case["train_logits_0_4"], rel=1e-4, abs=1e-4)

    feats, logits = model.eval()(x, is_feat=True)
    assert norms_of(feats) == pytest.approx(case["eval_feat_l2"], rel=1e-5)
    assert logits.norm().item() == pytest.approx(case["eval_logits_l2"], rel=1e-4)
    assert logits[0, :4].tolist() == pytest.approx(case["eval_logits_0_4"], rel=1e-4)
    assert torch.equal(model(x), logits)
    if "eval_preact_feat_l2" in case:
        assert norms_of(model(x, is_feat=True, preact=True)[0]) == pytest.approx(case["eval_preact_feat_l2"], rel=1e-5)


SHAPES_AT_32 = {
    "resnet110": [(16, 32), (16, 32), (32, 16), (64, 8), 64],
    "resnet38x2": [(16, 32), (32, 32), (64, 16), (128, 8), 128],
    "resnet14x4": [(32, 32), (64, 32), (128, 16), (256, 8), 256],
    "wrn_40_1": [(16, 32), (16, 32), (32, 16), (64, 8), 64],
    "wrn_28_2": [(16, 32), (32, 32), (64, 16), (128, 8), 128],
    "vgg13": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4), 512],
    "ResNet18": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4), 512],
    "ResNet50": [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4), 2048],
    "MobileNetV2": [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2), 1280],
    "MobileNetV2_1_0": [(32, 16), (24, 16), (32, 8), (96, 4), (320, 2), 1280],
    "ShuffleV1": [(24, 32), (240, 16), (480, 8), (960, 4), 960],
    "ShuffleV2": [(24, 32), (116, 16), (232, 8), (464, 4), 1024],
    "ShuffleV2_1_5": [(24, 32), (176, 16), (352, 8), (704, 4), 1024],
}


@pytest.mark.parametrize("name", SHAPES_AT_32)
def test_feature_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        model = create_model(name, 100)
    *maps, width = SHAPES_AT_32[name]
    assert feature_shapes(model, 32) == [*((c, s, s) for c, s in maps), (width,)]
    deepest = 1 if name.startswith("vgg") else 2  # VGG pools its fourth block only at 64 pixels
    at_64 = [*((c, 2 * s, 2 * s) for c, s in maps[:-1]), (maps[-1][0], deepest * maps[-1][1], deepest * maps[-1][1])]
    assert feature_shapes(model, 64) == [*at_64, (width,)]


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    """Any size; feats in order; the embedding is the average of pooled_map(feats[-2]) and the classifier's input."""
    with torch.device("meta"):
        model = create_model(name, 7)
        images = torch.empty(2, 3, 64, 64)
    assert model.name == name
    feats, logits = model(images, is_feat=True)
    sizes = [f.shape[-1] for f in feats[:-1]]
    assert sizes == sorted(sizes, reverse=True)
    assert logits.shape == model(images).shape == (2, 7)
    assert model.pooled_map(feats[-2]).mean((2, 3)).shape == feats[-1].shape
    classifier = get_classifier(model)
    assert isinstance(classifier, nn.Linear)
    assert classifier.in_features == feats[-1].shape[1]
    assert [tuple(f.shape[1:]) for f in feats] == feature_shapes(model, 64)


SMALL = ["resnet8", "resnet14x2", "resnet8x4", "ResNet18", "wrn_16_1", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1",
         "ShuffleV2", "MobileNetV2_Imagenet", "ShuffleV2_Imagenet"]


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_embedding_and_logits_follow_from_the_deepest_map(name):
    model = create_model(name, 5).eval()
    x = torch.randn(2, 3, 64, 64)
    feats, logits = model(x, is_feat=True)
    torch.testing.assert_close(model.pooled_map(feats[-2]).mean((2, 3)), feats[-1])
    torch.testing.assert_close(get_classifier(model)(feats[-1]), logits)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*SMALL[:10], "wrn_40_2"])
def test_preact_updates_each_batchnorm_once_and_changes_nothing_else(name):
    """Published WRN ran three BatchNorms twice (spec 8, item 36); and no feature may be overwritten after its use."""
    torch.manual_seed(0)
    plain = create_model(name, 5)
    model = copy.deepcopy(plain)
    x = torch.randn(4, 3, 32, 32)
    plain_feats, plain_logits = plain(x, is_feat=True)
    feats, logits = model(x, is_feat=True, preact=True)
    assert torch.equal(logits, plain_logits)
    assert torch.equal(feats[0], plain_feats[0])
    assert torch.equal(feats[-1], plain_feats[-1])
    state = plain.state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key])
        assert not key.endswith("num_batches_tracked") or tensor == 1
    # MobileNetV2's maps are linear already, ShuffleNetV2 shuffles after its ReLU.
    if not name.startswith(("wrn", "MobileNetV2", "ShuffleV2")):
        skip_stem = slice(1, -1)
        for before, after in zip(feats[skip_stem], plain_feats[skip_stem], strict=True):
            assert torch.equal(before.relu(), after)
            assert before.min() < 0
    sum(f.square().sum() for f in feats).backward()  # fails if a feature was changed in place


def test_wrn_maps_are_sums_and_their_preact_is_the_next_batchnorm():
    model = create_model("wrn_16_2", 5).eval()
    x = torch.randn(2, 3, 32, 32)
    (_, f1, f2, f3, _), _ = model(x, is_feat=True)
    (_, b1, b2, b3, _), _ = model(x, is_feat=True, preact=True)
    assert min(f.min() for f in (f1, f2, f3)) < 0
    assert torch.equal(b1, model.block2.layer[0].bn1(f1))
    assert torch.equal(b2, model.block3.layer[0].bn1(f2))
    assert torch.equal(b3, model.bn1(f3))


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "torchvision/shufflenet_v2_x0_5"])
@pytest.mark.parametrize("training", [True, False])
def test_feature_shapes_touches_nothing(name, training):
    model = create_model(name, 5).train(training)
    state = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    feature_shapes(model, 32)
    assert model.training == training
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())


def test_wrapped_models_have_a_classifier_and_shapes():
    model = create_model("resnet8", 5)
    wrapped = torch.compile(nn.DataParallel(model))
    assert get_classifier(wrapped) is model.fc
    assert feature_shapes(wrapped, 32) == feature_shapes(model, 32)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_channels_last_maps_stay_channels_last(name):
    x = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    feats, _ = create_model(name, 5).to(memory_format=torch.channels_last)(x, is_feat=True)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in feats[:-1])


def test_init_statistics():
    """sqrt(2 / (k*k*C_out)) for convolutions, 0.01 for VGG's classifier, zero for WRN's bias."""
    torch.manual_seed(0)
    for name in ("resnet20", "wrn_16_2", "vgg8", "MobileNetV2", "ResNet18"):
        for module in create_model(name, 100).modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
                fan_out = module.kernel_size[0] ** 2 * module.out_channels
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert create_model("vgg8", 100).classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert create_model("wrn_16_2", 100).fc.bias.abs().max() == 0


def test_aliases_give_the_canonical_network():
    for alias, name in aliases.items():
        with torch.device("meta"):
            assert create_model(alias, 10).name == name


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UsageError, match=r"unknown model 'resnet8x44': did you mean .*resnet8x4"):
        create_model("resnet8x44", 10)
    with pytest.raises(UsageError, match="torchvision/resnet18"):
        create_model("torchvision/resnet17", 10)


def test_default_learning_rate():
    assert {name for name in NAMES if default_learning_rate(name) == 0.01} == {
        "MobileNetV2", "MobileNetV2_1_0", "ShuffleV1", "ShuffleV2", "ShuffleV2_1_5"}
    assert default_learning_rate("torchvision/resnet18") == 0.05
