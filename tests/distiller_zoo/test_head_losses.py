"""DIH, MHKD, TOFD and mutual learning: published values, gradients, a perfect match, extreme logits, who gets none."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distiller_zoo.dih import DIHLoss
from distiller_zoo.dml import DMLLoss
from distiller_zoo.mhkd import MHKDLoss
from distiller_zoo.tofd import TOFDLoss, orthogonality, soft_cross_entropy, temperature
from errors import UsageError
from tests.golden import draw, fill, heads

CLASSES, EXITS = 5, 3
T = 1.012  # TOFD's
LOSSES = {  # of the student's and the teacher's logits at every exit, and the classes
    "dih": lambda: DIHLoss(),
    "mhkd": lambda: MHKDLoss(),
    "mhkd as published": lambda: MHKDLoss(faithful=True),
    "tofd": lambda: TOFDLoss(widths=[(CLASSES, CLASSES)] * EXITS),  # here the features are the logits
    "dml": lambda: DMLLoss(),
}
CALLS = {"dih": lambda loss, z_ss, z_ts, y: loss(z_ss[0], z_ts, y),
         "tofd": lambda loss, z_ss, z_ts, y: loss(z_ss, z_ts, z_ss, z_ts, y, T),
         "dml": lambda loss, z_ss, z_ts, y: loss(z_ss[0], z_ts[1:], y)}
each_loss = pytest.mark.parametrize("key", LOSSES)
each_precision = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-9)],
                                         ids=["float32", "float64"])


def made(key, dtype=torch.float32):
    """The loss as a function of (z_ss, z_ts, y)."""
    torch.manual_seed(0)
    loss, call = LOSSES[key]().to(dtype), CALLS.get(key, lambda loss, *inputs: loss(*inputs))
    return lambda *inputs: call(loss, *inputs)


def random_logits(batch=4, dtype=torch.float32, scale=1.0, seed=0):
    """(student's, teacher's, classes); all logits are leaves."""
    generator = torch.Generator().manual_seed(seed)
    drawn = scale * torch.randn(2, EXITS, batch, CLASSES, generator=generator, dtype=torch.float64)
    z_ss, z_ts = ([z.to(dtype).requires_grad_() for z in side] for side in drawn)
    return z_ss, z_ts, torch.randint(CLASSES, (batch,), generator=generator)


def leaves(text, count, dtype):
    """The logits or features of all branches, of a text such as 2*rn(201+b,4,10)."""
    return [draw(text, dtype, b).requires_grad_() for b in range(count)]


def check_gradient(x, expected, tolerance):
    assert x.grad.norm().item() == pytest.approx(expected["l2"], rel=tolerance)
    assert x.grad.flatten()[:3].tolist() == pytest.approx(expected["first3"], rel=tolerance,
                                                          abs=tolerance * expected["l2"])


# The formulas again, without torch: for settings that the kept cases do not have.

def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def ce(z, y):
    return -log_softmax(z)[np.arange(len(y)), y].mean()


def kl(z_s, z_t, T):
    log_s, log_t = log_softmax(z_s / T), log_softmax(z_t / T)
    return T**2 * (np.exp(log_t) * (log_t - log_s)).sum() / len(z_s)


def kd(z_s, z_t, y, alpha, T):
    return (1 - alpha) * ce(z_s, y) + alpha * kl(z_s, z_t, T)


def arrays(z_ss, z_ts, y):
    return [z.detach().numpy() for z in z_ss], [z.detach().numpy() for z in z_ts], y.numpy()


@each_precision
def test_published_kd_of_dih(dtype, tolerance):
    for case in heads["kd_dih_repo"]:
        z_s, z_t, y = (draw(case[name], dtype) for name in ("student", "teacher", "labels"))
        assert y.tolist() == case["labels_values"]
        value = DIHLoss(case["alpha"], case["T"])(z_s.requires_grad_(), [z_t], y)
        value.backward()
        assert value.item() == pytest.approx(case["loss"], rel=tolerance)
        check_gradient(z_s, case["grad_student"], tolerance)


@each_precision
def test_published_dih(dtype, tolerance):
    for case in heads["dih_combined"]:
        z_s, y = draw(case["student"], dtype).requires_grad_(), draw(case["labels"])
        value = DIHLoss(case["alpha"], case["T"])(z_s, leaves(case["teachers"], case["k"] + 1, dtype), y)
        value.backward()
        assert value.item() == pytest.approx(case["loss"], rel=tolerance)
        check_gradient(z_s, case["grad_student"], tolerance)


@each_precision
def test_published_dih_of_networks(dtype, tolerance):
    """Of the logits that tests/models/test_heads.py computes."""
    for case in heads["dih_model_level"]:
        z_s, *z_ts = (torch.tensor(z, dtype=dtype) for z in (case["student_logits"], *case["teacher_logits"].values()))
        value = DIHLoss(case["alpha"], case["T"])(z_s, z_ts, draw(case["labels"]))
        assert value.item() == pytest.approx(case["loss"], rel=tolerance)


@each_precision
def test_published_mutual_learning(dtype, tolerance):
    for case in heads["dml"]:
        z_s, y = draw(case["student"], dtype).requires_grad_(), draw(case["labels"])
        text = case["others"].replace("...", f"{case['B']},{case['C']}")
        others = [draw(text, dtype, j) for j in range(1, case["n_other_peers"] + 1)]
        value = DMLLoss(case["alpha"], case["T"])(z_s, [] if case["burn_out"] else others, y)
        value.backward()
        assert value.item() == pytest.approx(case["loss"], rel=tolerance)
        check_gradient(z_s, case["grad_student"], tolerance)


@each_precision
@pytest.mark.parametrize("faithful", [True, False])
def test_published_mhkd(faithful, dtype, tolerance):
    for case in heads["mhkd"]:
        z_ss, z_ts = (leaves(case[side], case["k"] + 1, dtype) for side in ("student", "teacher"))
        value = MHKDLoss(case["alpha"], case["beta"], case["T"], faithful)(z_ss, z_ts, draw(case["labels"]))
        value.backward()
        if faithful or len(set(case["alpha"].values())) == 1:
            assert value.item() == pytest.approx(case["loss"], rel=tolerance)
            check_gradient(z_ss[0], case["grad_student_final"], tolerance)
            check_gradient(z_ss[1], case["grad_student_head1"], tolerance)
        if faithful:
            check_gradient(z_ts[1], case["grad_teacher_head1"], tolerance)


@each_precision
@pytest.mark.parametrize("given", [True, False], ids=["widths", "lazy"])
def test_published_tofd(given, dtype, tolerance):
    for case in heads["tofd_total"]:
        count = case["n_student_feats"]
        f_ss, f_ts, z_ss, z_ts = (leaves(case[key], n, dtype) for key, n in (
            ("student_feats", count), ("teacher_feats", count),
            ("student_logits", case["n_logits"]), ("teacher_logits", case["n_logits"])))
        y, T = draw(case["labels"]), temperature(case["epoch"], case["t"])
        assert pytest.approx(case["T_effective"]) == T
        widths = [(case["d_student"], case["d_teacher"])] * count
        loss = TOFDLoss(case["alpha"], case["beta"], widths if given else None).to(dtype)
        loss(f_ss, f_ts, z_ss, z_ts, y, T)  # makes the links that were not
        fill(loss.links, 8500, scale=0.1)
        value = loss(f_ss, f_ts, z_ss, z_ts, y, T)
        value.backward()
        assert value.item() == pytest.approx(case["loss"], rel=tolerance)
        check_gradient(f_ss[0], case["grad_student_feat0"], tolerance)
        check_gradient(z_ss[0], case["grad_student_logit0"], tolerance)

        exits = list(zip(loss.links, f_ss, f_ts, z_ss, z_ts, strict=False))
        parts = {"feature_terms": [loss.distance(link(f_s), f_t) for link, f_s, f_t, _, _ in exits],
                 "ce_terms": [F.cross_entropy(z_s, y) for *_, z_s, _ in exits],
                 "soft_ce_terms": [soft_cross_entropy(z_s, z_t, T) for *_, z_s, z_t in exits],
                 "orthogonal_terms_unsquared": [orthogonality(link.weight) for link, *_ in exits]}
        for key, terms in parts.items():
            assert [term.item() for term in terms] == pytest.approx(case[key], rel=tolerance)
        assert case["beta"] * sum(case["orthogonal_terms_unsquared"]) == pytest.approx(case["orthogonal_weighted"])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("alpha", "alphas"), [
    (0.3, [0.3] * 3), (1, [1] * 3), ((0.1, 0.5, 0.9), [0.1, 0.5, 0.9]), ({0: 0.0, 1: 0.2, 2: 0.3}, [0, 0.2, 0.3]),
    ({"2": 1, "0": 0.4, "1": 0}, [0.4, 0, 1]),  # as JSON has it
], ids=str)
def test_dih_by_numpy(alpha, alphas, reduction):
    z_ss, z_ts, y = random_logits(dtype=torch.float64)
    (z_s, *_), others, classes = arrays(z_ss, z_ts, y)
    terms = [kd(z_s, z_t, classes, a, 3.0) for a, z_t in zip(alphas, others, strict=True) if a]
    expected = sum(terms) / (len(terms) if reduction == "mean" else 1)
    assert DIHLoss(alpha, 3.0, reduction)(z_ss[0], z_ts, y).item() == pytest.approx(expected, rel=1e-9)


def test_dih_of_the_final_classifier_alone_is_kd():
    z_ss, z_ts, y = random_logits(dtype=torch.float64)
    (z_s, *_), (z_t, *_), classes = arrays(z_ss, z_ts, y)
    value = DIHLoss(0.1, 5.0)(z_ss[0], z_ts[:1], y)
    assert value.item() == pytest.approx(kd(z_s, z_t, classes, 0.1, 5.0), rel=1e-9)


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize("alpha", [(0.1, 0.5, 0.9), (0.3, 0.0, 0.7), (0.0, 0.4, 0.0)], ids=str)
def test_mhkd_by_numpy(alpha, faithful):
    z_ss, z_ts, y = random_logits(dtype=torch.float64)
    own, others, classes = arrays(z_ss, z_ts, y)
    expected = kd(own[0], others[0], classes, alpha[1] if faithful else alpha[0], 3.0)
    for a, z_s, z_t in zip(alpha[1:], own[1:], others[1:], strict=True):
        if a or not faithful:
            expected += ce(z_t, classes) + 0.7 * kd(z_s, z_t, classes, a, 3.0)
    assert MHKDLoss(alpha, 0.7, 3.0, faithful)(z_ss, z_ts, y).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("d_s", "d_t"), [(7, 7), (5, 9), (9, 5)])
@pytest.mark.parametrize("per_sample", [True, False])
def test_tofd_by_numpy(d_s, d_t, per_sample):
    """With one more pair of logits than there are features, as in the published networks."""
    rs = np.random.RandomState(0)
    f_ss, f_ts = rs.randn(EXITS, 4, d_s), rs.randn(EXITS, 4, d_t)
    z_ss, z_ts = rs.randn(2, EXITS + 1, 4, CLASSES)
    weights, y = rs.randn(EXITS, d_t, d_s), rs.randint(0, CLASSES, 4)
    expected = 0
    for w, f_s, f_t, z_s, z_t in zip(weights, f_ss, f_ts, z_ss, z_ts, strict=False):
        gap = f_s @ w.T - f_t
        expected += 0.2 * (np.linalg.norm(gap, axis=1).mean() if per_sample else np.linalg.norm(gap))
        expected += ce(z_s, y) - (np.exp(log_softmax(z_t / 2.5)) * log_softmax(z_s / 2.5)).sum(1).mean()
        expected += 0.3 * (np.linalg.norm(w @ w.T - np.eye(d_t)) + np.linalg.norm(w.T @ w - np.eye(d_s)))
    loss = TOFDLoss(0.2, 0.3, [(d_s, d_t)] * EXITS, per_sample).double()
    loss.load_state_dict({f"links.{i}.weight": torch.from_numpy(w) for i, w in enumerate(weights)})
    inputs = [[torch.from_numpy(x) for x in side] for side in (f_ss, f_ts, z_ss, z_ts)]
    assert loss(*inputs, torch.from_numpy(y), 2.5).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2])
def test_mutual_learning_by_numpy(count):
    z_ss, z_ts, y = random_logits(dtype=torch.float64)
    (z_s, *_), others, classes = arrays(z_ss, z_ts, y)
    expected = 0.8 * ce(z_s, classes) + 0.2 * np.mean([kl(z_s, z, 3.0) for z in others[:count]])
    assert DMLLoss(0.2, 3.0)(z_ss[0], z_ts[:count], y).item() == pytest.approx(expected, rel=1e-9)


def test_mutual_learning_without_others_is_the_cross_entropy():
    z_ss, z_ts, y = random_logits()
    expected = F.cross_entropy(z_ss[0], y).item()
    assert DMLLoss()(z_ss[0], [], y).item() == expected
    assert DMLLoss(alpha=0)(z_ss[0], z_ts, y).item() == expected


@each_loss
def test_gradient(key):
    z_ss, z_ts, y = random_logits(2, torch.float64)
    loss, z_ts = made(key, torch.float64), [z.detach() for z in z_ts]
    assert torch.autograd.gradcheck(lambda *z: loss(z, z_ts, y), z_ss)


def test_gradient_of_links():
    torch.manual_seed(0)
    loss = TOFDLoss(0.2, 0.3, [(4, 3)]).double()
    f_s, f_t, z = (torch.randn(2, width, dtype=torch.float64) for width in (4, 3, CLASSES))

    def of(weight):
        inputs = ([f_s], [f_t], [z], [z], torch.tensor([0, 1]), T)
        return torch.func.functional_call(loss, {"links.0.weight": weight}, inputs)

    assert torch.autograd.gradcheck(of, loss.links[0].weight)


@pytest.mark.parametrize("batch", [1, 4])
def test_at_a_perfect_match_cross_entropies_are_left(batch):
    z_ss, _, y = random_logits(batch)
    entropies = [F.cross_entropy(z, y).item() for z in z_ss]
    values = {key: made(key)([z_ss[0]] * EXITS if key == "dih" else z_ss,
                             [z_ss[0]] * EXITS if key in ("dih", "dml") else z_ss, y).item() for key in LOSSES}
    assert values["dih"] == pytest.approx(EXITS * 0.9 * entropies[0], rel=1e-5)
    assert values["dml"] == pytest.approx(0.9 * entropies[0], rel=1e-5)
    assert values["mhkd"] == pytest.approx(0.9 * entropies[0] + (1 + 0.5 * 0.9) * sum(entropies[1:]), rel=1e-5)
    assert values["mhkd as published"] == values["mhkd"]


def test_tofd_is_smooth_where_features_and_links_are_perfect():
    loss = TOFDLoss(widths=[(CLASSES, CLASSES)] * EXITS)
    for link in loss.links:
        torch.nn.init.eye_(link.weight)
    z_ss, _, y = random_logits()
    loss(z_ss, z_ss, z_ss, z_ss, y, T).backward()
    assert all(orthogonality(link.weight) == 0 for link in loss.links)
    assert all(link.weight.grad.abs().max() == 0 for link in loss.links)
    for z in z_ss:
        alone = z.detach().clone().requires_grad_()
        (F.cross_entropy(alone, y) + soft_cross_entropy(alone, z.detach(), T)).backward()
        torch.testing.assert_close(z.grad, alone.grad)


@each_loss
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("scale_s", [0, 1, 1e4])
@pytest.mark.parametrize("scale_t", [0, 1, 1e4])
def test_finite_for_equal_and_extreme_logits(key, batch, scale_s, scale_t):
    signs = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0]).repeat(batch, 1)
    z_ss = [(scale_s * signs).requires_grad_() for _ in range(EXITS)]
    z_ts = [-scale_t * signs for _ in range(EXITS)]
    value = made(key)(z_ss, z_ts, torch.arange(batch))
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert all(z.grad is None or z.grad.isfinite().all() for z in z_ss)


@each_loss
def test_float32_inside_autocast(key):
    z_ss, z_ts, y = random_logits(8, torch.bfloat16, scale=5)
    loss = made(key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(z_ss, z_ts, y)
    assert value.dtype == torch.float32
    assert value.item() == loss([z.float() for z in z_ss], [z.float() for z in z_ts], y).item()


@each_loss
def test_the_teacher_learns_from_its_own_cross_entropy_or_not_at_all(key):
    z_ss, z_ts, y = random_logits()
    made(key)(z_ss, z_ts, y).backward()
    if not key.startswith("mhkd"):
        assert all(z.grad is None for z in z_ts)
        return
    assert z_ts[0].grad is None
    for z in z_ts[1:]:
        alone = z.detach().clone().requires_grad_()
        F.cross_entropy(alone, y).backward()
        assert torch.allclose(z.grad, alone.grad, rtol=1e-5) == (key == "mhkd")


def test_an_mhkd_head_of_alpha_zero_still_learns():
    z_ss, z_ts, y = random_logits()
    MHKDLoss(alpha=(0.1, 0, 0.1))(z_ss, z_ts, y).backward()
    assert z_ts[1].grad.norm() > 0
    assert z_ss[1].grad.norm() > 0


@pytest.mark.parametrize(("alpha", "given"),
                         [((0.1, 0.2), "0, 1"), ({0: 0.1, 2: 0.1, 3: 0.1}, "0, 2, 3"), ((), "none")], ids=str)
def test_alphas_for_other_branches_are_refused(alpha, given):
    z_ss, z_ts, y = random_logits()
    message = rf"alpha is given for branches {given}, and there are 0 .* to 2: give one for each"
    with pytest.raises(UsageError, match=message):
        DIHLoss(alpha)(z_ss[0], z_ts, y)
    with pytest.raises(UsageError, match=message):
        MHKDLoss(alpha)(z_ss, z_ts, y)


@pytest.mark.parametrize("alpha", [2, -0.1, (0.1, 0.1, 1.5)], ids=str)
def test_alphas_that_are_no_share_are_refused(alpha):
    z_ss, z_ts, y = random_logits()
    for loss, student in ((DIHLoss(alpha), z_ss[0]), (MHKDLoss(alpha), z_ss)):
        with pytest.raises(UsageError, match="share of a branch, from 0 to 1, and cannot be"):
            loss(student, z_ts, y)


def test_dih_refuses_to_have_nothing_to_learn():
    z_ss, z_ts, y = random_logits()
    with pytest.raises(UsageError, match="every branch has alpha 0"):
        DIHLoss(alpha=0)(z_ss[0], z_ts, y)
    with pytest.raises(UsageError, match="unknown reduction 'avg'"):
        DIHLoss(reduction="avg")


def test_tofd_without_widths_makes_its_links_at_the_first_call():
    loss = TOFDLoss()
    assert not list(loss.parameters())
    f_ss, f_ts = torch.randn(EXITS, 4, 6), torch.randn(EXITS, 4, 8)
    z_ss, z_ts, y = random_logits()
    value = loss(list(f_ss), list(f_ts), z_ss, z_ts, y, T)
    assert [link.weight.shape for link in loss.links] == [(8, 6)] * EXITS
    assert loss(list(f_ss), list(f_ts), z_ss, z_ts, y, T).item() == value.item()
    with pytest.raises(ValueError, match="zip"):
        loss(list(f_ss[:2]), list(f_ts), z_ss, z_ts, y, T)


@pytest.mark.parametrize("per_sample", [True, False])
def test_tofd_distance_and_the_size_of_the_batch(per_sample):
    f_s, f_t = torch.randn(2, 4, 6).unbind()
    loss = TOFDLoss(per_sample=per_sample)
    ratio = (loss.distance(f_s.repeat(4, 1), f_t.repeat(4, 1)) / loss.distance(f_s, f_t)).item()
    assert ratio == pytest.approx(1 if per_sample else 2, rel=1e-5)


def test_temperature_rises_from_epoch_to_epoch():
    assert [temperature(epoch) for epoch in (0, 199)] == pytest.approx([1.012, 3.4])
    assert temperature(9, t=5.0) == pytest.approx(1.2)
