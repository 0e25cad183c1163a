"""Losses on embeddings, and those with trained layers: published values, gradients, extremes, precision."""
import re

import pytest
import torch
from torch import nn

from distiller_zoo import rkd
from distiller_zoo.abound import ABLoss, Connector
from distiller_zoo.correlation import Correlation, LinearEmbed
from distiller_zoo.factor import FactorTransfer, Paraphraser, Translator
from distiller_zoo.hint import HintLoss
from distiller_zoo.pkt import PKT
from distiller_zoo.reviewkd import HCL
from distiller_zoo.rkd import RKDLoss
from distiller_zoo.semckd import SemCKD
from distiller_zoo.simkd import SimKD
from distiller_zoo.srrl import SRRL
from distiller_zoo.vid import VIDLoss
from models.norm import BatchNorm2d
from tests.distiller_zoo.published import gradient_norm, load_parameters
from tests.golden import classic, draw_inputs


def published(key):
    """The inputs' order is that of the case; returns (loss of them, modules)."""
    case = classic["losses"][key]["cases"][0]
    blocks = {block["module"]: block for block in case["params"]}
    shapes = [tuple(spec["shape"]) for spec in case["inputs"]]

    def plain(loss):
        return loss, [loss]

    if key == "CC+embed":
        embeds = [load_parameters(LinearEmbed(shape[1], 8), block)
                  for shape, block in zip(shapes, case["params"], strict=True)]
        return lambda f_s, f_t: Correlation()(embeds[0](f_s), embeds[1](f_t)), embeds
    if key.startswith("VID"):
        return plain(load_parameters(VIDLoss(8, 12, 12), blocks["VIDLoss"]))
    if key == "AB":
        return lambda s, t: ABLoss(1)([s], [t]), []
    if key == "AB+Connector":
        connector = load_parameters(Connector(shapes[0::2], shapes[1::2]), blocks["Connector"])
        return lambda s0, t0, s1, t1: ABLoss(2)(connector([s0, s1]), [t0, t1]), [connector]
    if key == "FT+modules":
        translator = load_parameters(Translator(*shapes), blocks["Translator"])
        paraphraser = load_parameters(Paraphraser(shapes[1]), blocks["Paraphraser"])
        return (lambda f_s, f_t: FactorTransfer()(translator(f_s), paraphraser(f_t))), [translator, paraphraser]
    if key == "FT_init_reconstruction":
        paraphraser = load_parameters(Paraphraser(shapes[0]), blocks["Paraphraser"])
        return (lambda f_t: HintLoss()(paraphraser.reconstruct(f_t), f_t)), [paraphraser]
    if key == "SRRL":
        classifier = load_parameters(nn.Linear(12, 10), blocks["cls_t"])
        return plain(load_parameters(SRRL(8, 12, classifier), blocks["SRRL"]))
    if key == "SimKD":
        simkd = load_parameters(SimKD(8, 16), blocks["SimKD"])
        return lambda f_s, f_t: HintLoss()(*simkd(f_s, f_t)), [simkd]
    if key == "SemCKD":
        loss = load_parameters(SemCKD(shapes[:2], shapes[2:], batch_size=8), blocks["SelfA"], semckd_key)
        return lambda *maps: loss(maps[:2], maps[2:]), [loss]
    return plain({"CC": Correlation, "RKD": RKDLoss, "PKT": PKT, "FT": FactorTransfer}[key]())


def semckd_key(key):
    key = re.sub(r"^(query|key)_(\d)\.linear([12])", lambda m: f"attention.{m[1]}.{m[2]}.{2 * int(m[3]) - 2}", key)
    return re.sub(r"^regressor(\d)(\d)\.regressor", r"projectors.\1.\2", key)


@pytest.mark.parametrize("key", ["CC", "CC+embed", "VID", "VID_default_scale", "RKD", "PKT", "AB", "AB+Connector", "FT",
                                 "FT+modules", "FT_init_reconstruction", "SRRL", "SemCKD", "SimKD"])
@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), [(torch.float32, "", 1e-4), (torch.float64, "_f64", 1e-6)],
                         ids=["float32", "float64"])
def test_published_values(key, dtype, suffix, tolerance):
    case = classic["losses"][key]["cases"][0]
    loss, modules = published(key)
    for module in modules:
        module.to(dtype)
    inputs = draw_inputs(case, dtype)
    value = loss(*inputs.values())
    value.backward()
    assert value.shape == ()
    assert value.item() == pytest.approx(case["out"]["loss" + suffix], rel=tolerance)
    for name, norm in case["out"]["grad_norm" + suffix].items():
        assert inputs[name].grad.norm().item() == pytest.approx(norm, rel=tolerance)
    if "param_grad_norm" in case["out"] and key != "SRRL":  # SRRL's counts the classifier, which is frozen here
        assert gradient_norm(*modules) == pytest.approx(case["out"]["param_grad_norm"], rel=1e-4)


def test_the_two_terms_of_srrl():
    case = classic["losses"]["SRRL"]["cases"][0]
    loss, _ = published("SRRL")
    e_s, e_t, z_t = draw_inputs(case).values()
    h = loss.transfer(e_s[:, :, None, None]).flatten(1)
    assert loss(e_s, e_t, loss.classifier(h)).item() == pytest.approx(case["out"]["feat_term"], rel=1e-4)
    assert loss(e_s, h, z_t).item() == pytest.approx(case["out"]["logit_term"], rel=1e-4)


# name: (loss of two lists, the student's shapes, the teacher's), all without the batch
def pair(loss):
    return lambda s, t: loss(*s, *t)


def make(name):
    torch.manual_seed(0)
    return {
        "correlation": lambda: (pair(Correlation()), [(5,)], [(5,)]),
        "vid": lambda: (*of(VIDLoss(3, 4, 5)), [(3, 4, 4)], [(5, 2, 2)]),
        "rkd": lambda: (pair(RKDLoss()), [(5,)], [(7,)]),
        "pkt": lambda: (pair(PKT()), [(5,)], [(7,)]),
        "abound": lambda: (ABLoss(2), [(3, 4, 4), (5, 2, 2)], [(3, 4, 4), (5, 2, 2)]),
        "factor": lambda: (pair(FactorTransfer()), [(3, 4, 4)], [(5, 2, 2)]),
        "srrl": lambda: (*of(SRRL(5, 7, nn.Linear(7, 3))), [(5,)], [(7,), (3,)]),
        "semckd": lambda: (SemCKD([(3, 4, 4), (4, 2, 2)], [(2, 3, 3), (3, 1, 1)], 4), [(3, 4, 4), (4, 2, 2)],
                           [(2, 3, 3), (3, 1, 1)]),
        "hcl": lambda: (HCL(), [(3, 5, 5), (4, 1, 1)], [(3, 5, 5), (4, 1, 1)]),
    }[name]()


def of(module):
    """A module as a loss of two lists, with its parameters where `parameters_of` finds them."""
    loss = pair(module)
    loss.module = module
    return (loss,)


def module_of(loss):
    return loss if isinstance(loss, nn.Module) else getattr(loss, "module", nn.Module())


LOSSES = ("correlation", "vid", "rkd", "pkt", "abound", "factor", "srrl", "semckd", "hcl")
BOTH_SIDES = ("correlation", "factor")  # CC trains an embedding of the teacher; FT's factor is constant by no_grad
each_loss = pytest.mark.parametrize("name", LOSSES)


def draw(shapes, batch, dtype=torch.float32, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def leaves(features):
    return [f.detach().requires_grad_() for f in features]


@each_loss
@pytest.mark.parametrize("batch", [2, 4])
def test_gradient(name, batch):
    loss, s_shapes, t_shapes = make(name)
    module_of(loss).double()
    s, t = draw(s_shapes, batch, torch.float64), draw(t_shapes, batch, torch.float64, seed=1)
    assert torch.autograd.gradcheck(lambda *s: loss(list(s), t), leaves(s), fast_mode=True)


@pytest.mark.parametrize("name", ["correlation", "rkd", "pkt", "factor", "hcl"])
@pytest.mark.parametrize("batch", [1, 4])
def test_zero_at_a_perfect_match(name, batch):
    loss, shapes, _ = make(name)
    s = leaves(draw(shapes, batch))
    value = loss(s, [f.detach().clone() for f in s])
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert all(f.grad.isfinite().all() for f in s)


@each_loss
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", ["random", "zero", "equal samples", "huge", "tiny"])
def test_finite(name, batch, kind):
    loss, s_shapes, t_shapes = make(name)
    scale = {"zero": 0.0, "huge": 1e4, "tiny": 1e-20}.get(kind, 1.0)
    s, t = leaves(draw(s_shapes, batch, scale=scale)), draw(t_shapes, batch, seed=1, scale=scale)
    if kind == "equal samples":
        s = leaves([f[:1].expand_as(f) for f in s])
    value = loss(s, t)
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert all(f.grad.isfinite().all() for f in s)
    assert all(p.grad.isfinite().all() for p in module_of(loss).parameters() if p.requires_grad)


@each_loss
def test_float32_inside_autocast(name):
    loss, s_shapes, t_shapes = make(name)
    s, t = draw(s_shapes, 4, torch.bfloat16), draw(t_shapes, 4, torch.bfloat16, seed=1)
    expected = loss([f.float() for f in s], [f.float() for f in t])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(s, t)
    assert value.dtype == torch.float32
    # SemCKD's projectors are three convolutions each: they take the precision around them, its loss does not
    assert value.item() == pytest.approx(expected.item(), rel=0.02 if name == "semckd" else 0)


@each_loss
def test_the_teacher_is_a_constant(name):
    loss, s_shapes, t_shapes = make(name)
    s, t = leaves(draw(s_shapes, 4)), leaves(draw(t_shapes, 4, seed=1))
    loss(s, t).backward()
    assert all((f.grad is None) != (name in BOTH_SIDES) for f in t)


@each_loss
def test_channels_last(name):
    loss, s_shapes, t_shapes = make(name)
    s, t = draw(s_shapes, 4), draw(t_shapes, 4, seed=1)
    expected = loss(s, t).item()
    s, t = ([f.to(memory_format=torch.channels_last) if f.ndim == 4 else f for f in features] for features in (s, t))
    assert loss(s, t).item() == pytest.approx(expected, rel=1e-5)


def test_correlation_relates_neighbours_in_the_batch():
    e_s, e_t = torch.tensor([[1.0, 2], [0, 1], [3, 3]]), torch.zeros(3, 2)
    assert Correlation()(e_s, e_t).item() == pytest.approx(((0 + 2) + (0 + 3)) / 2)


def test_vid_for_a_large_scale():
    loss = VIDLoss(2, 2, 2)
    assert nn.functional.softplus(loss.log_scale[0]).item() + loss.eps == pytest.approx(5)
    nn.init.constant_(loss.log_scale, 100.0)  # exp(100) is not a float32
    assert loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)).item() == pytest.approx(0.5 * torch.tensor(1e2).log())


def test_angles_in_chunks(monkeypatch):
    s, t = draw([(5,)], 7, torch.float64)[0], draw([(9,)], 7, torch.float64, seed=1)[0]
    results = []
    for chunk in (rkd.CHUNK, 2 * 7 * 9, 1):  # all rows, two rows, one at a time
        monkeypatch.setattr(rkd, "CHUNK", chunk)
        (f_s,) = leaves([s])
        value = RKDLoss()(f_s, t)
        value.backward()
        results.append((value.detach(), f_s.grad))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_rkd_keeps_no_table_of_angles():
    """What the graph holds on to is far below the (B, B, B) and (B, B, D) tensors of the formula."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    B, D = 192, 128
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        RKDLoss()(torch.randn(B, D, requires_grad=True), torch.randn(B, D))
    assert kept < B**3 / 10


def test_equal_samples_push_nothing_apart_by_force():
    """F.normalize's gradient at a zero difference is 1e12 times the incoming one."""
    s = draw([(5,)], 4)[0]
    s[1] = s[0]
    (s,) = leaves([s])
    RKDLoss()(s, draw([(7,)], 4, seed=1)[0]).backward()
    assert s.grad.abs().max() < 100


def test_boundaries_are_hinged_at_the_margin():
    maps_t = [torch.tensor([1.0, -1.0, 0.0, 2.0]).view(1, 4, 1, 1)]
    maps_s = [torch.tensor([3.0, -3.0, -3.0, -1.0]).view(1, 4, 1, 1)]
    assert ABLoss(1)(maps_s, maps_t).item() == pytest.approx(0.003 * 2**2)
    assert ABLoss(1, margin=4.0)(maps_s, maps_t).item() == pytest.approx(0.003 * (1 + 1 + 1 + 5**2))


def test_paraphraser_and_translator_meet():
    paraphraser, translator = Paraphraser((6, 8, 8)), Translator((5, 4, 4), (6, 8, 8))
    f_t = torch.randn(2, 6, 8, 8)
    assert paraphraser(f_t).shape == (2, 3, 8, 8)
    assert paraphraser.reconstruct(f_t).shape == f_t.shape
    assert translator(torch.randn(2, 5, 4, 4)).shape == (2, 3, 4, 4)


def test_batchnorm_of_a_single_vector():
    norm, reference = BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 1, 1)
    torch.testing.assert_close(norm(x), reference(x))
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm(x[:1]), reference.eval()(x[:1]))
    assert torch.equal(norm.running_mean, before)
