"""The objective: its terms and weights, what trains and what does not, several devices."""
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dataset import Batch
from distiller_zoo import DistillKL, LossWeights, Method, get_method, make_terms, methods
from errors import UsageError
from helper import networks as module
from helper.device import Device
from helper.objective import Objective
from models import create_model
from models.features import Features
from tasks import CLASSIFICATION
from tests.distiller_zoo.pairs import batch_of, options

CPU = Device(torch.device("cpu"), [], "fp32")


class FeatureDifference(Method):
    """A method with a parameter, a buffer and two named terms."""

    weights = LossWeights(1.0, 0.0, 1.0, "none")

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, s, t, batch):
        difference = (s.embedding - t.embedding).square().mean()
        return {"near": self.scale * difference, "far": s.maps[0].square().mean()}


def make(student, teacher, method, gamma=1.0, alpha=0.0, beta=0.0, kd_T=4.0, device=CPU):
    opt = SimpleNamespace(gamma=gamma, alpha=alpha, beta=beta, kd_T=kd_T, distill="kd")
    return Objective(student, device, make_terms(CLASSIFICATION.criterion, opt, method), teacher, method)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    student, teacher = create_model("resnet8", 10), create_model("resnet14", 10)
    method = FeatureDifference(student, teacher, SimpleNamespace(image_size=32))
    batch = Batch(torch.randn(8, 3, 32, 32), torch.randint(10, (8,)), torch.arange(8))
    return student, teacher, method, batch


def test_terms_are_weighted_and_add_up(pair):
    student, teacher, method, batch = pair
    objective = make(student, teacher, method, gamma=0.5, alpha=2.0, beta=3.0, kd_T=4.0).eval()
    losses = objective(batch)
    z_s, z_t = student(batch.images), teacher(batch.images)
    assert list(losses.terms) == ["ce", "kl", "near", "far"]
    assert losses.terms["ce"].item() == pytest.approx(0.5 * F.cross_entropy(z_s, batch.target).item())
    assert losses.terms["kl"].item() == pytest.approx(2 * DistillKL(4.0)(z_s, z_t).item())
    far = student(batch.images, is_feat=True)[0][1].square().mean()
    assert losses.terms["far"].item() == pytest.approx(3 * far.item())
    assert losses.total.item() == pytest.approx(sum(term.item() for term in losses.terms.values()))
    torch.testing.assert_close(losses.logits, z_s)


def test_a_weight_of_zero_skips_its_term_and_the_teacher(pair):
    student, teacher, method, batch = pair
    teacher.forward = None  # calling it would fail
    losses = make(student, teacher, method, gamma=1.0, alpha=0.0, beta=0.0)(batch)
    assert list(losses.terms) == ["ce"]


def test_a_teacher_teaches_without_a_method(pair):
    """The KL of alpha needs none."""
    student, teacher, _, batch = pair
    losses = make(student, teacher, None, gamma=0.5, alpha=2.0).eval()(batch)
    z_s, z_t = student(batch.images), teacher(batch.images)
    assert list(losses.terms) == ["ce", "kl"]
    assert losses.terms["kl"].item() == pytest.approx(2 * DistillKL(4.0)(z_s, z_t).item())


def test_the_teacher_never_changes(pair):
    student, teacher, method, batch = pair
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    objective = make(student, teacher, method, 1.0, 1.0, 1.0).train()
    assert student.training
    assert not any(part.training for part in teacher.modules())
    objective(batch).total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_what_trains_is_student_and_method(pair):
    student, teacher, method, _ = pair
    trained = make(student, teacher, method).trained_parameters()
    assert {id(p) for p in trained} == {id(p) for p in [*student.parameters(), method.scale]}


def test_losses_see_the_whole_batch_when_networks_are_split(pair, monkeypatch):
    """Two devices are played by two halves of the batch on the CPU, gathered as DataParallel gathers."""
    student, teacher, method, batch = pair
    calls = []

    def halves(network, images, device_ids, module_kwargs):
        calls.append(device_ids)
        (feats_a, z_a), (feats_b, z_b) = (network(half, **module_kwargs) for half in images.chunk(2))
        return [torch.cat(pair) for pair in zip(feats_a, feats_b, strict=True)], torch.cat([z_a, z_b])

    monkeypatch.setattr(module, "data_parallel", halves)
    one = make(student, teacher, method, 1.0, 1.0, 1.0).eval()(batch)
    two = make(student, teacher, method, 1.0, 1.0, 1.0, device=CPU._replace(device_ids=[0, 1])).eval()(batch)
    assert calls == [[0, 1]] * 2
    for name in one.terms:
        assert one.terms[name].item() == pytest.approx(two.terms[name].item(), rel=1e-5)


def test_networks_run_in_bf16_and_losses_in_float32(pair):
    student, teacher, method, batch = pair
    losses = make(student, teacher, method, 1.0, 1.0, 0.0, device=CPU._replace(precision="bf16"))(batch)
    assert losses.logits.dtype == torch.bfloat16
    assert losses.total.dtype == torch.float32
    assert losses.total.item() == pytest.approx(
        make(student, teacher, method, 1.0, 1.0, 0.0)(batch).total.item(), rel=0.05)


def test_no_loss_at_all_is_refused(pair):
    student, teacher, method, _ = pair
    with pytest.raises(UsageError, match="no loss has a weight"):
        make(student, teacher, method, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", [name for name in methods if (get_method(name).reads or Features).maps is True])
def test_a_teacher_that_stops_early_teaches_the_same(name):
    torch.manual_seed(0)
    student, teacher, batch = create_model("resnet8", 10), create_model("resnet14", 10), batch_of(4)
    method = methods[name](student, teacher, options(methods[name]))
    objective = make(student, teacher, method, gamma=0, beta=1).eval()
    assert objective.t_depth == 4  # the stem and three stages
    cut = objective(batch).terms["method"].item()
    objective.t_depth = None
    assert objective(batch).terms["method"].item() == cut != 0


def test_soft_targets_take_the_place_of_classes(pair):
    student, _, _, batch = pair
    soft = torch.rand(8, 10).softmax(dim=1)
    loss = make(student, None, None).eval()(batch._replace(soft=soft)).total
    assert loss.item() == pytest.approx(-(soft * student(batch.images).log_softmax(dim=1)).sum(dim=1).mean().item())


def test_terms_of_one_name_are_refused(pair):
    """Else the second would take the place of the first."""
    student, teacher, method, batch = pair
    method.forward = lambda s, t, batch: {"ce": s.embedding.mean()}
    with pytest.raises(UsageError, match="two terms of the loss are called ce"):
        make(student, teacher, method, beta=1.0)(batch)
