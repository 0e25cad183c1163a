"""Losses on feature maps: published values, gradients, a perfect match, empty and extreme maps, half precision."""
import pytest
import torch

from distiller_zoo.attention import Attention
from distiller_zoo.attention_grad import GradientAttention
from distiller_zoo.fsp import FSP
from distiller_zoo.hint import HintLoss
from distiller_zoo.kdsvd import KDSVD
from distiller_zoo.nst import NSTLoss
from distiller_zoo.similarity import Similarity
from losses import pool_to_match, unit
from tests import golden
from tests.golden import draw, heads


def of_first(loss):
    """A loss of two maps as one of two lists."""
    return lambda maps_s, maps_t: loss(maps_s[0], maps_t[0])


LOSSES = {
    "hint": of_first(HintLoss()),
    "attention": Attention(),
    "attention p=1": Attention(p=1),
    "attention_grad": of_first(GradientAttention()),
    "nst linear": NSTLoss("linear"),
    "nst poly": NSTLoss(),
    "nst gauss": NSTLoss("gauss", sigma2=1.0),
    "similarity": of_first(Similarity()),
    "fsp": FSP(),
    "kdsvd": KDSVD(),
    "kdsvd k=2": KDSVD(k=2),
}
SHAPES = [(2, 3, 3, 3), (2, 5, 2, 2), (2, 3, 2, 2)]  # more positions than channels, fewer, another size
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_precision = pytest.mark.parametrize(("dtype", "suffix", "tolerance"),
                                         [(torch.float32, "", 1e-4), (torch.float64, "_f64", 1e-6)],
                                         ids=["float32", "float64"])


def random_maps(seed=0, batch=2, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(batch, *shape[1:], generator=generator, dtype=torch.float64).to(dtype)
            for shape in SHAPES]


def value_and_gradients(loss, maps_s, maps_t):
    maps_s = [f.detach().requires_grad_() for f in maps_s]
    value = loss(maps_s, maps_t)
    value.backward()
    return value, [torch.zeros_like(f) if f.grad is None else f.grad for f in maps_s]


@each_precision
@pytest.mark.parametrize(("key", "loss"), [("Hint", "hint"), ("AT", "attention"), ("NST", "nst poly"),
                                           ("SP", "similarity"), ("FSP", "fsp"), ("KDSVD_canonical", "kdsvd")])
def test_published_values(key, loss, dtype, suffix, tolerance):
    for case in golden.classic["losses"][key]["cases"]:
        inputs = golden.draw_inputs(case, dtype)
        maps_s = {name: f for name, f in inputs.items() if name in case["out"]["grad_norm"]}
        maps_t = [f.detach() for name, f in inputs.items() if name not in maps_s]
        value = LOSSES[loss](list(maps_s.values()), maps_t)
        value.backward()
        assert value.shape == ()
        assert value.item() == pytest.approx(case["out"]["loss" + suffix], rel=tolerance)
        norms = {name: f.grad.norm().item() for name, f in maps_s.items()}
        assert norms == pytest.approx(case["out"]["grad_norm" + suffix], rel=tolerance)


@each_precision
@pytest.mark.parametrize(("case", "loss"), [
    *((case, Attention(case["p"])) for case in heads["at_activation"] if "torchdistill" not in case["impl"]),
    *((case, NSTLoss()) for case in heads["nst_poly_d2_c0"]),
    *((case, of_first(HintLoss())) for case in heads["hint_mse"]),
], ids=lambda x: x.get("impl", "")[:20] if isinstance(x, dict) else "")
def test_zoo_values(case, loss, dtype, suffix, tolerance):
    value, (gradient,) = value_and_gradients(loss, [draw(case["student"], dtype)], [draw(case["teacher"], dtype)])
    assert value.item() == pytest.approx(case["loss"], rel=tolerance)
    if "grad_student" in case:
        assert gradient.norm().item() == pytest.approx(case["grad_student"]["l2"], rel=tolerance)
        # the zoo divides by norm + 1e-6, hence not the tolerance of the values
        assert gradient.flatten()[:3].tolist() == pytest.approx(case["grad_student"]["first3"], rel=1e-3)


@pytest.mark.parametrize(("kernel", "sigma2", "key"),
                         [("linear", None, "linear"), ("poly", None, "poly"), ("gauss", 1.0, "gaussian_sigma2_1")])
def test_nst_kernels(kernel, sigma2, key):
    for case in heads["nst_formula_kernels"]:
        value = NSTLoss(kernel, sigma2)([draw(case["student"])], [draw(case["teacher"])])
        assert value.item() == pytest.approx(case[key], rel=1e-6)


def test_fsp_in_the_zoos_form_and_the_papers():
    for case in heads["fsp"]:
        maps_s, maps_t = ([draw(case[name]) for name in names] for names in (("s1", "s2"), ("t1", "t2")))
        value, gradients = value_and_gradients(FSP(), maps_s, maps_t)
        if "paper" in case["impl"]:
            value = value * maps_s[0].shape[1] * maps_s[1].shape[1]
        elif "torchdistill" in case["impl"]:
            continue  # another loss: columns' lengths, maximum pooling
        assert value.item() == pytest.approx(case["loss"], rel=1e-6)
        if "grad_s1" in case:
            assert gradients[0].norm().item() == pytest.approx(case["grad_s1"]["l2"], rel=1e-6)
            assert gradients[0].flatten()[:3].tolist() == pytest.approx(case["grad_s1"]["first3"], rel=1e-6)


@pytest.mark.parametrize(("c_s", "c_t", "size_s", "size_t"), [(3, 4, 4, 4), (7, 9, 2, 2), (3, 8, 6, 3), (8, 3, 3, 6)])
def test_nst_poly_is_the_mean_over_all_pairs_of_channels(c_s, c_t, size_s, size_t):
    """By the published broadcast over (B, C, C', HW), whichever of the two products the loss picks."""
    f_s, f_t = (torch.randn(2, c, size, size, dtype=torch.float64) for c, size in ((c_s, size_s), (c_t, size_t)))
    x_s, x_t = (torch.nn.functional.normalize(f.flatten(2), dim=2) for f in pool_to_match(f_s, f_t))

    def mean_kernel(x, y):
        return (x[:, :, None] * y[:, None]).sum(-1).square().mean()

    expected = mean_kernel(x_t, x_t) + mean_kernel(x_s, x_s) - 2 * mean_kernel(x_s, x_t)
    assert NSTLoss()([f_s], [f_t]).item() == pytest.approx(expected.item(), rel=1e-10)


def test_nst_gaussian_width_is_the_mean_squared_distance():
    f_s, f_t = torch.randn(2, 4, 3, 3), torch.randn(2, 5, 3, 3)
    x_s, x_t = (torch.nn.functional.normalize(f.flatten(2), dim=2) for f in (f_s, f_t))
    sigma2 = torch.cdist(x_s, x_t).square().mean().item()
    expected = NSTLoss("gauss", sigma2)([f_s], [f_t]).item()
    assert NSTLoss("gauss")([f_s], [f_t]).item() == pytest.approx(expected, rel=1e-4)


@each_loss
def test_gradient(loss):
    maps_s, maps_t = random_maps(0, dtype=torch.float64), random_maps(1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *maps: loss(maps, maps_t), [f.requires_grad_() for f in maps_s])


@each_loss
@pytest.mark.parametrize("batch", [1, 4])
def test_zero_at_a_perfect_match(loss, batch):
    maps = random_maps(batch=batch)
    value, gradients = value_and_gradients(loss, maps, maps)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert max(g.abs().max() for g in gradients) < 1e-4


@each_loss
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scale_s", [0, 1e-8, 1, 6e4])
@pytest.mark.parametrize("scale_t", [0, 1, 6e4])
def test_finite_for_empty_and_extreme_maps(loss, batch, scale_s, scale_t):
    """6e4 is close to the largest number of float16. A gradient of 1e12, at zero, would be as good as infinite."""
    maps_s, maps_t = random_maps(0, batch, scale=scale_s), random_maps(1, batch, scale=scale_t)
    value, gradients = value_and_gradients(loss, maps_s, maps_t)
    assert value.shape == ()
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    if scale_s == 0:
        assert max(g.abs().max() for g in gradients) < 1e6


@each_loss
def test_dead_channels_and_samples_do_not_explode(loss):
    maps_s, maps_t = random_maps(0), random_maps(1)
    for f in maps_s:
        f[0] = 0
        f[:, 0] = 0
    value, gradients = value_and_gradients(loss, maps_s, maps_t)
    assert value.isfinite()
    assert max(g.abs().max() for g in gradients) < 1e3


@each_loss
def test_float32_inside_autocast(loss):
    maps_s, maps_t = random_maps(0, dtype=torch.bfloat16), random_maps(1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(maps_s, maps_t)
    assert value.dtype == torch.float32
    expected = loss([f.float() for f in maps_s], [f.float() for f in maps_t]).item()
    assert value.item() == pytest.approx(expected, rel=1e-6)


@each_loss
def test_the_teacher_receives_no_gradient(loss):
    maps_t = [f.requires_grad_() for f in random_maps(1)]
    value_and_gradients(loss, random_maps(0), maps_t)
    assert all(f.grad is None for f in maps_t)


@each_loss
def test_memory_format_does_not_matter(loss):
    maps_s, maps_t = random_maps(0), random_maps(1)
    last_s, last_t = ([f.to(memory_format=torch.channels_last) for f in maps] for maps in (maps_s, maps_t))
    value, gradients = value_and_gradients(loss, maps_s, maps_t)
    value_last, gradients_last = value_and_gradients(loss, last_s, last_t)
    assert value_last.item() == pytest.approx(value.item(), rel=1e-4)
    for a, b in zip(gradients, gradients_last, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", [Attention(), NSTLoss(), KDSVD()], ids=["attention", "nst", "kdsvd"])
def test_a_longer_list_is_cut(loss):
    maps_s, maps_t = random_maps(0), random_maps(1)
    expected = loss(maps_s[:2], maps_t[:2]).item()
    assert loss(maps_s, maps_t[:2]).item() == loss(maps_s[:2], maps_t).item() == expected


@pytest.mark.parametrize("size", [4, 5])
def test_the_larger_map_is_pooled(size):
    small, large = torch.randn(2, 3, 2, 2), torch.randn(2, 4, size, size)
    expected = torch.nn.functional.adaptive_avg_pool2d(large, 2)
    torch.testing.assert_close(pool_to_match(small, large)[1], expected)
    for f_s, f_t in ((small, large), (large, small)):
        pooled_s, pooled_t = pool_to_match(f_s, f_t)
        assert pooled_s.shape == (2, f_s.shape[1], 2, 2)
        assert pooled_t.shape == (2, f_t.shape[1], 2, 2)
    assert pool_to_match(small, large)[0] is small
    torch.testing.assert_close(pool_to_match(large, large[:, :, :1, :1])[0], large.mean((2, 3), keepdim=True))


def test_unit_vectors():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], requires_grad=True)
    y = unit(x, dim=1)
    torch.testing.assert_close(y.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.032, -0.024], [0.0, 0.0], [0.0, 0.0]]))
