"""Classifiers on stage maps: published sizes and values, every network of the zoo, a batch of one, refusals."""
import re
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from errors import UsageError
from models import create_model, feature_shapes
from models.heads import HEAD_TYPES, ConvHead, FlatHead, Heads, SepConvHead
from tests.golden import draw, fill, heads
from tests.models.test_networks import NAMES

RESNET = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]  # resnet8 ... resnet110 at 32 pixels
RESNET18 = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
each_kind = pytest.mark.parametrize("kind", HEAD_TYPES)


def count(module):
    return sum(p.numel() for p in module.parameters())


def random_maps(shapes, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


def filled(name, base, order, scale=0.05):
    """The network of a golden case, in eval mode and float64."""
    model = create_model(name, 10).double().eval()
    assert [list(model.get_parameter(key).shape) for key, _ in order] == [shape for _, shape in order]
    return fill(model, base, scale, [key for key, _ in order])


def check_map(f, expected):
    assert [f.sum().item(), f.abs().sum().item()] == pytest.approx([expected["sum"], expected["abs_sum"]], rel=1e-9)
    assert f.flatten()[:3].tolist() == pytest.approx(expected["first3"], rel=1e-9)


def check_logits(logits, expected):
    torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("shapes", "counts"), [
    (RESNET, [1_638_500, 819_300, 409_700]),
    (RESNET18, [6_553_700, 3_276_900, 1_638_500, 819_300]),
    ([(32, 32, 32), (64, 16, 16), (128, 8, 8)], [3_276_900, 1_638_500, 819_300]),
    ([(64, 16, 16), (128, 16, 16), (256, 8, 8), (512, 1, 1)], [1_638_500, 3_276_900, 1_638_500, 51_300]),
], ids=["resnet", "ResNet18", "wrn_28_2", "DIH's VGG"])
def test_published_sizes_of_flat_heads(shapes, counts):
    with torch.device("meta"):
        assert [count(head) for head in Heads(shapes, None, 100).values()] == counts


@pytest.mark.parametrize(("channels", "parameters"), [(16, 696_074), (32, 732_938), (64, 806_666), (128, 954_122),
                                                      (256, 1_249_034), (512, 1_838_858)])
def test_published_sizes_of_conv_heads(channels, parameters):
    with torch.device("meta"):
        assert count(ConvHead((channels, 8, 8), 10)) == parameters
        assert count(ConvHead((channels, 2, 2), 100)) == parameters + 23_130


@pytest.mark.parametrize(("shapes", "counts"), [
    (RESNET, [4_992, 3_840, 0]),
    (RESNET18, [268_800, 254_976, 202_752, 0]),
], ids=["resnet", "ResNet18"])
def test_published_sizes_of_sepconv_heads(shapes, counts):
    with torch.device("meta"):
        made = Heads(shapes, None, 100, "sepconv")
    assert [count(head.branch) for head in made.values()] == counts
    assert {head.linear.in_features for head in made.values()} == {shapes[-1][0]}


def test_published_values_of_the_conv_head():
    for case in heads["mhkd_head_forward"]:
        x = draw(case["input"])
        head = fill(ConvHead(x.shape[1:], case["num_classes"]).double(), case["fill_base"], case["scale"])
        assert [name for name, _ in head.named_parameters()] == case["param_names"]
        assert count(head) == case["params"]
        assert head.conv_1.padding == (case["padding"], case["padding"])
        check_logits(head.eval()(x), case["eval_logits"])
        check_logits(head.train()(x), case["train_logits"])


@torch.no_grad()
def test_published_values_of_networks_and_stage_maps():
    for case in heads["dih_models_forward"]:
        name = case["model"].replace("res", "resnet")
        model = filled(name, case["fill_base"], case["param_order"], case["scale"])
        feats, logits = model(draw(case["input"]), is_feat=True)
        check_logits(logits, case["logits"])
        assert [list(f.shape) for f in feats[1:-1]] == case["stages"]
        for f, expected in zip(feats[1:-1], case["stage_checks"], strict=True):
            check_map(f, expected)


@torch.no_grad()
def test_published_values_of_flat_heads():
    for case in heads["dih_model_level"]:
        x = draw(case["input"])
        student = filled("resnet8", 1000, case["student_param_order"])
        feats, logits = student(x, is_feat=True)
        check_logits(logits, case["student_logits"])
        for stage, expected in case["student_stage_checks"].items():
            check_map(feats[int(stage)], expected)

        teacher = filled("resnet14", 2000, case["teacher_param_order"])
        made = Heads(feature_shapes(teacher, 32)[1:-1], None, 10).double()
        for stage, head in made.items():
            fill(head, 3000 + 10 * int(stage), scale=0.01)
        feats, logits = teacher(x, is_feat=True)
        for b, z in enumerate([logits, *made(feats[1:-1])]):
            check_logits(z, case["teacher_logits"][str(b)])


@torch.no_grad()
def test_published_values_of_sepconv_heads():
    (case,) = (case for case in heads["tofd_models_forward"] if case["model"] == "res8 CIFAR TOFD")
    parts = nn.ModuleDict({"net": create_model("resnet8", 10), "heads": Heads(RESNET, None, 10, "sepconv")})
    fill(parts.double().eval(), case["fill_base"], case["scale"], [published_key(key) for key in case["param_names"]])
    feats, main = parts["net"](draw(case["input"]), is_feat=True)
    features, logits = parts["heads"].features(feats[1:-1])
    for z, expected in zip([main, *reversed(logits)], case["logits"], strict=True):
        check_logits(z, expected)
    for f, expected in zip(reversed(features), case["feature_checks"], strict=True):
        check_map(f, expected)
    for z, expected in zip(parts["heads"](feats[1:-1]), logits, strict=True):
        assert torch.equal(z, expected)


def published_key(key):
    """auxiliary1.0.op.2.bias and fc1.bias are of the head on stage 1; what is left belongs to the network."""
    key, branched = re.subn(r"^auxiliary(\d)\.(\d)\.op", r"heads.\1.branch.\2", key)
    key, linear = re.subn(r"^fc(\d)", r"heads.\1.linear", key)
    return key if branched or linear else f"net.{key}"


@cache
def stage_shapes(name):
    """At 32 and at 64 pixels."""
    with torch.device("meta"):
        model = create_model(name, 10)
    return {image_size: feature_shapes(model, image_size)[1:-1] for image_size in (32, 64)}


# Depth adds no stage: of resnet8 ... resnet116, and so on, the first one, which is the shallowest.
SHALLOW = {re.sub(r"^(resnet|ResNet|wrn_|vgg)\d+", r"\1", name): name for name in reversed(NAMES)}


@each_kind
@pytest.mark.parametrize("image_size", [32, 64])
@pytest.mark.parametrize("name", list(SHALLOW.values()))
def test_every_network_takes_heads(name, image_size, kind):
    """In training mode and for one image, of which the deepest map may be 1x1."""
    with torch.device("meta"):
        shapes = stage_shapes(name)[image_size]
        made = Heads(shapes, None, 7, kind, pool=2 if kind == "flat" else None)
        assert [z.shape for z in made([torch.empty(1, *shape) for shape in shapes])] == [(1, 7)] * len(shapes)


@pytest.mark.parametrize("side", range(1, 9))
@pytest.mark.parametrize("batch", [1, 2])
def test_conv_heads_are_padded_only_where_the_map_would_vanish(side, batch):
    head = ConvHead((3, side, side + 1), 5)
    assert head.conv_1.padding == ((0, 0) if side >= 5 else (1, 1))
    assert head.conv_2.padding == ((0, 0) if side >= 3 else (1, 1))
    assert head(torch.randn(batch, 3, side, side + 1)).shape == (batch, 5)


@each_kind
def test_a_single_image_trains_the_heads(kind):
    shapes = [(4, 2, 2), (8, 1, 1), (8, 1, 1)]
    made = Heads(shapes, None, 5, kind)
    sum(z.square().sum() for z in made(random_maps(shapes, batch=1))).backward()
    assert all(p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize(("size", "pool"), [((8, 8), 2), ((7, 5), 2), ((4, 8), 4), ((6, 6), 4)])
def test_a_larger_map_is_averaged_before_a_flat_head(size, pool):
    f = torch.randn(2, 3, *size)
    head = FlatHead((3, *size), 5, pool=pool)
    assert head.linear.in_features == 3 * pool * pool
    torch.testing.assert_close(head(f), head.linear(F.adaptive_avg_pool2d(f, pool).flatten(1)))


def test_a_smaller_map_is_not_averaged():
    head, f = FlatHead((3, 2, 2), 5, pool=4), torch.randn(2, 3, 2, 2)
    assert torch.equal(head(f), head.linear(f.flatten(1)))


@each_kind
def test_memory_format_does_not_matter(kind):
    shapes = [(4, 8, 8), (6, 4, 4)]
    made, maps = Heads(shapes, None, 5, kind).eval(), random_maps(shapes)
    for a, b in zip(made(maps), made([f.to(memory_format=torch.channels_last) for f in maps]), strict=True):
        torch.testing.assert_close(a, b)


@each_kind
def test_maps_are_not_changed(kind):
    """They are the teacher's, and other heads read them."""
    shapes = [(4, 8, 8), (6, 4, 4)]
    maps = random_maps(shapes)
    Heads(shapes, None, 5, kind)(maps)
    assert all(torch.equal(a, b) for a, b in zip(maps, random_maps(shapes), strict=True))


@each_kind
def test_heads_are_in_the_order_of_their_stages(kind):
    made, maps = Heads(RESNET, [3, 1], 5, kind).eval(), random_maps(RESNET)
    assert made.stages == [1, 3]
    assert {key.split(".")[0] for key in made.state_dict()} == {"1", "3"}
    first, third = made(maps)
    assert torch.equal(first, made["1"](maps[0]))
    assert torch.equal(third, made["3"](maps[2]))


def test_some_of_the_heads():
    made, maps = Heads(RESNET, [1, 2, 3], 5), random_maps(RESNET)
    chosen = made.only([3, 2])
    assert chosen.stages == [2, 3]
    assert [z.tolist() for z in chosen(maps)] == [z.tolist() for z in made(maps)[1:]]
    chosen.requires_grad_(False)
    assert all(p.requires_grad for p in made.parameters())
    assert len(made) == 3
    with pytest.raises(UsageError, match=re.escape("no stage 1 for a head: choose from 2 (32x16x16), 3 (64x8x8)")):
        chosen.only([1])


def test_features_are_what_the_linear_layers_read():
    made, maps = Heads(RESNET, [1, 2, 3], 5, "sepconv").eval(), random_maps(RESNET)
    features, logits = made.features(maps)
    assert [f.shape for f in features] == [(2, 64)] * 3
    for head, f, z in zip(made.values(), features, logits, strict=True):
        assert torch.equal(head.linear(f), z)
    torch.testing.assert_close(features[2], maps[2].mean((2, 3)))
    assert isinstance(made["3"], SepConvHead)


@pytest.mark.parametrize(("stages", "kind", "pool", "message"), [
    ([1, 4], "flat", None, "there is no stage 4 for a head: choose from 1 (16x32x32), 2 (32x16x16), 3 (64x8x8)"),
    ([0], "flat", None, "there is no stage 0 for a head"),
    ([2, 1, 2], "conv", None, "stages 2 1 2: one is named twice: choose each once from 1 (16x32x32)"),
    ([], "sepconv", None, "no stage is named for a head"),
    (None, "sepcon", None, "unknown kind of head 'sepcon': did you mean sepconv"),
    (None, "conv", 4, "conv heads pool in their own way"),
])
def test_refusals(stages, kind, pool, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Heads(RESNET, stages, 10, kind, pool)


def test_another_networks_maps_are_refused():
    for shapes in ([(16, 32, 32), *RESNET], RESNET[:1]):
        with pytest.raises(ValueError, match=f"of 3 got {len(shapes)} maps"):
            Heads(RESNET, [2], 10)(random_maps(shapes))
    assert len(Heads(RESNET, [2], 10)(random_maps(RESNET[:2]))) == 1  # what lies deeper is not needed
