"""Standardised logits, +ls: published values, what sees them, extreme logits, names and weights."""
import pytest
import torch
import torch.nn.functional as F

from distiller_zoo import DistillKL, KDMSEMethod, get_method
from distiller_zoo.modifiers.logit_std import LogitStandardizationModifier, standardise
from distiller_zoo.terms import LogitKL
from errors import UsageError
from models.features import Features
from tests.distiller_zoo.pairs import CLASSES, batch_of, features, make
from tests.golden import draw_inputs, modern

CASES = modern["losses"]["KD_LS"]["cases"]
each_precision = pytest.mark.parametrize(("dtype", "suffix", "tolerance"),
                                         [(torch.float32, "", 1e-4), (torch.float64, "_f64", 1e-6)],
                                         ids=["float32", "float64"])


def random_logits(batch=4, seed=0, dtype=torch.float32):
    return torch.randn(batch, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def kl_of_views(z_s, z_t, T):
    """The KL that alpha multiplies, of the logits as the modifier lets it see them."""
    modifier = LogitStandardizationModifier(None, None, None, None)
    return LogitKL(T)(*modifier.view(Features([], z_s), Features([], z_t)), None)


@each_precision
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"T {case['ctor']['T']:g}")
def test_published_values(case, dtype, suffix, tolerance):
    z_s, z_t = draw_inputs(case, dtype).values()
    loss = kl_of_views(z_s, z_t, **case["ctor"])
    loss.backward()
    assert (loss.shape, loss.dtype, z_t.grad) == ((), dtype, None)
    assert loss.item() == pytest.approx(case["out"]["loss" + suffix], rel=tolerance)
    assert z_s.grad.norm().item() == pytest.approx(case["out"]["grad_norm" + suffix]["z_s"], rel=tolerance)


def test_gradient():
    """Through the mean and the deviation of a row too."""
    z_s, z_t = (random_logits(3, seed, torch.float64) for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda z: kl_of_views(z, z_t, 2.0), z_s.requires_grad_())


def test_what_standardised_logits_are():
    z = random_logits()
    standard = standardise(z)
    torch.testing.assert_close(standard.mean(1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard.std(1, correction=1), torch.ones(4))
    torch.testing.assert_close(standardise(5 * z + 3), standard)
    assert standardise(z.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("other", [0.0, 1.0, 1e4])
def test_a_constant_row_becomes_zeros(other):
    z = torch.full((2, CLASSES), other)
    z[1] = random_logits(1)
    z.requires_grad_()
    standard = standardise(z)
    assert torch.equal(standard[0], torch.zeros(CLASSES))
    DistillKL(2.0)(standard, standardise(random_logits(2, 1))).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("row", [[1e4, -1e4] * (CLASSES // 2), [1e4, *[-1e4] * (CLASSES - 1)],
                                 [-1e4, *[1e4] * (CLASSES - 1)]], ids=["alternating", "one high", "one low"])
@pytest.mark.parametrize("of", ["student", "teacher", "both"])
def test_finite_for_extreme_logits(row, of):
    extreme, common = torch.tensor([row] * 2), random_logits(2)
    z_s = (common if of == "teacher" else extreme).clone().requires_grad_()
    z_t = common if of == "student" else extreme
    loss = DistillKL(2.0)(standardise(z_s), standardise(z_t))
    loss.backward()
    assert loss.isfinite()
    assert z_s.grad.isfinite().all()


# Through the objective


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", ["kd+ls", "kdmse+ls", "crd+ls"])
def test_terms_on_the_logits_see_them_and_others_not(name, size):
    given = {"targets": torch.arange(100) % CLASSES, "nce_k": 16, "alpha": 0.7, "beta": 0.8}
    objective, made = make(get_method(name), image_size=16, **given)
    plain, _ = make(get_method(name.removesuffix("+ls")), image_size=16, **given)
    batch = batch_of(size, 16)
    s, t = features(objective.student, objective.teacher, batch)
    torch.manual_seed(1)  # crd's negatives
    losses = objective(batch)
    torch.manual_seed(1)
    without = plain(batch)
    gamma, z_s, z_t = get_method(name).weights.gamma, standardise(s.logits), standardise(t.logits)
    assert losses.terms["ce"].item() == pytest.approx(gamma * F.cross_entropy(s.logits, batch.target).item(), rel=1e-5)
    assert losses.terms["kl"].item() == pytest.approx(0.7 * DistillKL(2.0)(z_s, z_t).item(), rel=1e-4)
    torch.testing.assert_close(losses.logits, s.logits)  # what is counted is what is deployed
    assert objective.deployed() is objective.student
    if isinstance(made, KDMSEMethod):
        assert losses.terms["method"].item() == pytest.approx(0.8 * made.mse(z_s, z_t).item(), rel=1e-4)
    if name == "crd+ls":
        assert losses.terms["method"].item() == without.terms["method"].item()
    losses.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.trained_parameters())
    assert list(objective.modifiers.parameters()) == []


def test_the_teachers_head_sees_logits_as_they_are():
    objective, _ = make(get_method("kd+ls+th"), image_size=16)
    plain, _ = make(get_method("kd+th"), image_size=16)
    batch = batch_of(4, 16)
    losses = objective(batch)
    assert list(losses.terms) == ["ce", "kl", "th"]
    assert losses.terms["th"].item() == pytest.approx(plain(batch).terms["th"].item(), rel=1e-6)
    assert losses.terms["th"].item() != losses.terms["kl"].item()


def test_features_without_a_teacher_or_logits_pass():
    modifier = LogitStandardizationModifier(None, None, None, None)
    s = Features([], random_logits())
    assert modifier.view(s, None) == (s, None)
    t = Features([], None)
    assert modifier.view(s, t) == (s, t)


# Names, weights, refusals


@pytest.mark.parametrize(("typed", "name"), [("crd+th+ls", "crd+ls+th"), ("crd+ls+th", "crd+ls+th"),
                                             ("kd+ls", "kd+ls"), ("kdth+ls", "kdth+ls")])
def test_names_are_canonical(typed, name):
    method = get_method(typed)
    assert method.name == name
    assert list(method.modifiers) == [modifier for modifier in ("ls", "th") if modifier in name]  # as they act
    assert method == get_method(typed)


@pytest.mark.parametrize("name", ["kd+ls+ls", "crd+ls+th+ls"])
def test_a_second_one_is_refused(name):
    with pytest.raises(UsageError, match=r"has \+ls already: leave out the second"):
        get_method(name)


def test_weights():
    """Published for kd: 9 where kd alone has 0.9, and T 2."""
    weights = get_method("kd+ls").weights
    assert weights[:3] == pytest.approx((0.1, 9, 0))
    assert weights.kd_T == 2
    both = get_method("kd+th+ls").weights
    assert (both.alpha, both.kd_T, both.delta) == (pytest.approx(9), 2, 0.02)
    assert (get_method("kd").weights[:3], get_method("kd").weights.kd_T) == ((0.1, 0.9, 0.0), 4)
    objective, _ = make(get_method("kd+ls"), image_size=16)
    batch = batch_of(4, 16)
    s, t = features(objective.student, objective.teacher, batch)
    parts = {"ce": 0.1 * F.cross_entropy(s.logits, batch.target), "kl": 9 * kl_of_views(s.logits, t.logits, 2.0)}
    terms = {name: term.item() for name, term in objective(batch).terms.items()}
    assert terms == pytest.approx({name: part.item() for name, part in parts.items()}, rel=1e-4)


@pytest.mark.parametrize(("name", "rest"), [("crd+ls", "crd"), ("hint+ls", "hint"), ("crd+ls+th", r"crd\+th")])
def test_nothing_to_act_on_is_refused(name, rest):
    message = rf"no term compares the logits alone at --alpha 0, and \+ls has nothing .*: give -a a value.* use {rest}$"
    with pytest.raises(UsageError, match=message):
        make(get_method(name), image_size=16, targets=torch.arange(100) % CLASSES, nce_k=16)
    make(get_method(name), image_size=16, targets=torch.arange(100) % CLASSES, nce_k=16, alpha=1.0)
    make(get_method("kdmse+ls"), image_size=16, alpha=0.0)  # its own term is on the logits


@pytest.mark.parametrize("name", ["dih+ls", "mhkd+ls", "tofd+ls", "dml+ls"])
def test_methods_whose_alpha_is_their_own_are_refused(name):
    with pytest.raises(UsageError, match=r"compares the logits alone.*leave out \+ls"):
        get_method(name)
