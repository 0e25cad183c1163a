"""The projector method: published values of both losses, a perfect match, every projector and normalisation."""
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cli.options import student_options
from dataset import Batch
from distiller_zoo import DistillKL, Features, LogSum, ProjectorMethod, methods
from distiller_zoo.projector import LOG_EPS, NORM_EPS, ProjectedLogSum
from errors import UsageError
from runs.record import RunRecord
from tests.distiller_zoo import pairs
from tests.distiller_zoo.pairs import batch_of, weighted
from tests.distiller_zoo.test_maps import draw, heads

MODES, PROJECTORS, NORMS = ({option.name: option.settings["choices"] for option in ProjectorMethod.options}[name]
                            for name in ("projector_loss", "projector", "projector_norm"))
each_mode = pytest.mark.parametrize("mode", MODES)
PRECISIONS = [(torch.float32, 1e-4), (torch.float64, 1e-6)]


def make(*pair, **given):
    """(objective, method) of a new pair, at 16 pixels."""
    return pairs.make(ProjectorMethod, *pair, image_size=16, **given)


def embeddings(batch=4, width=6, dtype=torch.float32, scale=1.0):
    """Of student and teacher."""
    generator = torch.Generator().manual_seed(0)
    e_s, e_t = (scale * torch.randn(batch, width, generator=generator, dtype=dtype) for _ in range(2))
    return e_s.requires_grad_(), e_t


def fill(linear, base, scale):
    """The parameters of the golden recipe: each of its own generator."""
    for i, p in enumerate(linear.parameters()):
        p.data = torch.from_numpy(np.random.RandomState(base + i).standard_normal(p.shape) * scale)


def published(case, mode, s_dim, t_dim, dtype):
    """The loss of a golden case. Its exponent is 4 unless the case has another; so is BatchNorm's eps ours."""
    loss = ProjectedLogSum(s_dim, t_dim, mode)
    base, scale = re.search(r"fill base (\d+) scale ([\d.]+)", case["embed"]).groups()
    fill(loss.projector, int(base), float(scale))
    loss.logsum.alpha = case.get("exponent", 4.0)
    loss.norm_s.eps = loss.norm_t.eps = case.get("bn_eps", NORM_EPS[mode])
    return loss.to(dtype).train()


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", heads["projector_deit_corr_logsum"], ids=lambda case: f"exponent {case['exponent']}")
def test_published_correlation(case, dtype, tolerance):
    loss = published(case, "corr", case["s_dim"], case["t_dim"], dtype)
    e_s, e_t = draw(case["z_s"], dtype).requires_grad_(), draw(case["z_t"], dtype)
    value = loss(e_s, e_t)
    value.backward()
    assert LOG_EPS["corr"] == case["log_eps"]
    assert value.item() == pytest.approx(case["loss"], rel=tolerance)
    assert e_s.grad.norm().item() == pytest.approx(case["grad_student"]["l2"], rel=tolerance)
    assert e_s.grad.flatten()[:3].tolist() == pytest.approx(case["grad_student"]["first3"], rel=10 * tolerance)
    for name in ("running_mean", "running_var"):
        assert loss.norm_t.get_buffer(name)[:3].tolist() == pytest.approx(case[name + "_t_first3"], rel=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", heads["projector_r34r18_diff_logsum"], ids=lambda case: f"exponent {case['exponent']}")
def test_published_difference(case, dtype, tolerance):
    loss = published(case, "diff", case["dim"], case["dim"], dtype)
    e_s, e_t = draw(case["z_s"], dtype).requires_grad_(), draw(case["z_t"], dtype)
    value = loss(e_s, e_t)
    value.backward()
    assert NORM_EPS["diff"] == case["bn_eps"]
    assert value.item() == pytest.approx(case["loss"], rel=tolerance)
    assert e_s.grad.norm().item() == pytest.approx(case["grad_student"]["l2"], rel=tolerance)
    assert e_s.grad.flatten()[:3].tolist() == pytest.approx(case["grad_student"]["first3"], rel=10 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", heads["projector_r34r18_full"], ids=["full"])
def test_published_loss_of_a_batch(case, dtype, tolerance):
    """2 * LogSum at the published exponent, and KL at the method's temperature, of maps that are averaged first."""
    (e_s, z_s), (e_t, z_t) = ([draw(text, dtype) for text in re.findall(r"(?:\d\*)?rn\([\d,]+\)", case[role])]
                              for role in ("student", "teacher"))
    e_s, e_t = (layer4.mean((2, 3)) for layer4 in (e_s, e_t))  # (B, C, H, W) -> (B, C)
    weights = methods["projector"].weights
    rep = weights.beta * published(case, "diff", 512, 512, dtype)(e_s, e_t)
    kl = weights.alpha * DistillKL(weights.kd_T)(z_s, z_t)
    assert rep.item() == pytest.approx(case["rep_part"], rel=tolerance)
    assert kl.item() == pytest.approx(case["kl_part"], rel=tolerance)
    assert (rep + kl).item() == pytest.approx(case["loss"], rel=tolerance)


@each_mode
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_finite_and_negative_for_a_perfect_match(mode, alpha):
    torch.manual_seed(0)
    u = F.normalize(torch.randn(64, 6), dim=0).mul(8).requires_grad_()  # (B, D), each channel's mean square is 1
    loss = LogSum(mode, alpha)(u, u)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(LOG_EPS[mode]), abs=0.1)
    assert u.grad.isfinite().all()


@each_mode
@pytest.mark.parametrize("norm", NORMS)
def test_finite_for_a_copy_of_the_teacher(mode, norm):
    e, _ = embeddings(8)
    loss = ProjectedLogSum(6, 6, mode, "none", norm)(e, e)
    loss.backward()
    assert loss.isfinite()
    assert e.grad.isfinite().all()
    assert loss < -9 or (mode, norm) in {("corr", "none"), ("corr", "l2")}  # there channels have another mean square


@each_mode
def test_gradient(mode):
    e_s, e_t = embeddings(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: LogSum(mode)(e, e_t), e_s)
    torch.manual_seed(0)
    loss = ProjectedLogSum(6, 6, mode).double()
    assert torch.autograd.gradcheck(lambda e: loss(e, e_t), e_s)


@each_mode
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("scale", [0, 1e-8, 1, 1e4])
def test_finite_for_zero_and_extreme_embeddings(mode, norm, batch, scale):
    torch.manual_seed(0)
    for projector in PROJECTORS:
        loss = ProjectedLogSum(6, 6, mode, projector, norm)
        e_s, e_t = embeddings(batch, scale=scale)
        value = loss(e_s, e_t)
        value.backward()
        assert value.shape == ()
        assert value.isfinite()
        assert e_s.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_normalisations():
    e_s, e_t = embeddings(64)
    assert torch.equal(ProjectedLogSum(6, 6, norm="none").norm_s(e_s), e_s)
    torch.testing.assert_close(ProjectedLogSum(6, 6, norm="l2").norm_s(e_s).norm(dim=1), torch.ones(64))
    norm = ProjectedLogSum(6, 6, norm="bn").norm_t
    assert list(norm.parameters()) == []
    torch.testing.assert_close(norm(e_t).std(0, correction=0), torch.ones(6), rtol=1e-3, atol=0)


# Through the objective


@each_mode
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_step_with_every_projector_and_normalisation(mode, projector, norm):
    teacher = "resnet14" if projector == "none" else "wrn_16_2"
    objective, made = make(teacher, projector=projector, projector_norm=norm, projector_loss=mode)
    before = {key: value.clone() for key, value in objective.teacher.state_dict().items()}
    losses = objective(batch_of(4, 16))
    assert list(losses.terms) == ["ce", "kl", "method"]
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in objective.trained_parameters())
    assert all(p.grad.norm() > 0 for name, p in made.named_parameters() if name.endswith("weight"))
    assert all(p.grad is None for p in objective.teacher.parameters())
    torch.optim.SGD(objective.trained_parameters(), lr=0.001).step()
    assert objective(batch_of(4, 16)).total.isfinite()
    assert all(torch.equal(value, before[key]) for key, value in objective.teacher.state_dict().items())
    assert made.deploy(objective.student).is_student
    assert objective.deployed() is objective.student


def test_sizes_of_the_projectors():
    sizes = {projector: sum(p.numel() for p in make("wrn_16_2", projector=projector)[1].parameters())
             for projector in ("linear", "mlp")}
    linear = 64 * 128 + 128
    assert sizes == {"linear": linear, "mlp": linear + 2 * 128 + 128 * 128 + 128}
    assert list(make("resnet14", projector="none")[1].parameters()) == []


@each_mode
@pytest.mark.parametrize("size", [1, 3])
def test_bf16_and_a_short_last_batch(mode, size):
    """The projection runs in float32 too: fourth powers of small differences would be lost."""
    objective, _ = make(precision="bf16", projector_loss=mode)
    exact, _ = make(projector_loss=mode)
    losses, expected = (each(batch_of(size, 16)).terms["method"] for each in (objective, exact))
    losses.backward()
    assert losses.dtype == torch.float32
    assert losses.item() == pytest.approx(expected.item(), rel=0.1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.trained_parameters())


@each_mode
def test_the_loss_falls(mode):
    objective = weighted(make(projector_loss=mode)[0], 0, 0, 1)
    optimizer = torch.optim.SGD(objective.trained_parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        losses.append(objective(batch_of(8, 16)).total)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.3


def test_no_gradient_to_the_teacher():
    _, made = make()
    e_s, e_t = (e.detach().requires_grad_() for e in embeddings(4, 64))
    made(Features([e_s], None), Features([e_t], None), Batch(None, None, None)).backward()
    assert e_s.grad.norm() > 0
    assert e_t.grad is None


def test_unequal_widths_without_a_projector_are_refused():
    with pytest.raises(UsageError, match=r"64 \(student\) and 128 \(teacher\) features .*--projector none: use lin"):
        make("wrn_16_2", projector="none")


def test_unknown_modes_are_refused():
    for make_loss in (LogSum, lambda mode: ProjectedLogSum(6, 6, mode)):
        with pytest.raises(UsageError, match="unknown mode of LogSum 'dif': did you mean diff"):
            make_loss("dif")


# The temperature of its KL


def named(*args):
    opt = student_options(["--path_t", "teacher.pth", *args])
    facts = {"data": {"name": "cifar100"}, "teacher": {"arch": "resnet8"}, "inputs": {"teacher": "1a2b3c4d"}}
    return RunRecord("student", dict(opt), opt.given, facts, opt.roles).name()


def test_each_method_has_its_temperature():
    for name, temperature in (("projector", 1), ("kd", 4), ("crd+th", 4), ("projector+th", 1)):
        args = ["--path_t", "teacher.pth", "--distill", name]
        assert student_options(args).kd_T == temperature
        assert student_options([*args, "--kd_T", "2"]).kd_T == 2
        assert "kd_T" not in named("--distill", name)
        assert named("--distill", name, "--kd_T", str(temperature)) == named("--distill", name)
        assert "_kd_T-2_" in named("--distill", name, "--kd_T", "2")
    assert "_kd_T-4_" in named("--distill", "projector", "--kd_T", "4")
