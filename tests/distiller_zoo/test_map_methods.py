"""The methods that match feature maps, through the training objective, on small pairs of networks."""
import numpy as np
import pytest
import torch

from distiller_zoo.attention import AttentionMethod
from distiller_zoo.attention_grad import AttentionGradMethod, GradientAttention, input_gradient
from distiller_zoo.fsp import FSPMethod
from distiller_zoo.hint import HintMethod
from distiller_zoo.kdsvd import KDSVDMethod
from distiller_zoo.nst import NSTMethod
from distiller_zoo.similarity import SimilarityMethod
from errors import UsageError
from helper.objective import FirstStage
from tests.distiller_zoo.pairs import batch_of, features, make, weighted
from tests.distiller_zoo.test_maps import draw, heads

METHODS = [HintMethod, AttentionMethod, AttentionGradMethod, NSTMethod, SimilarityMethod, FSPMethod, KDSVDMethod]
SAME = [("resnet14", "resnet8"), ("vgg11", "vgg8"), ("wrn_16_2", "wrn_16_2")]
OTHER = [("resnet8x4", "ShuffleV2"), ("vgg8", "MobileNetV2"), ("ResNet18", "vgg8"), ("wrn_16_2", "ShuffleV1")]
EQUAL_CHANNELS = (FSPMethod, KDSVDMethod)
JOINT = [method for method in METHODS if method is not FSPMethod]  # with a loss in the main stage
STEPS = [(method, *pair) for method in JOINT for pair in [SAME[0], *OTHER]
         if method not in EQUAL_CHANNELS or pair in SAME]


def label(value):
    return value if isinstance(value, str | int) else value.__name__


@pytest.mark.parametrize(("method", "teacher", "student"), STEPS, ids=label)
@pytest.mark.parametrize("image_size", [16, 24])
def test_a_step_on_each_pair(method, teacher, student, image_size):
    objective, made = make(method, teacher, student, image_size)
    before = {key: value.clone() for key, value in objective.teacher.state_dict().items()}
    optimizer = torch.optim.SGD(objective.trained_parameters(), lr=0.01)
    losses = objective(batch_of(4, image_size))
    assert losses.terms["method"].shape == ()
    assert losses.terms["method"].dtype == torch.float32
    losses.total.backward()
    for name, p in [*objective.student.named_parameters(), *made.named_parameters()]:
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    assert all(p.grad is None for p in objective.teacher.parameters())
    optimizer.step()
    assert objective(batch_of(4, image_size)).total.isfinite()
    assert all(torch.equal(value, before[key]) for key, value in objective.teacher.state_dict().items())


@pytest.mark.parametrize("method", JOINT, ids=label)
@pytest.mark.parametrize("size", [1, 3])
def test_bf16_and_channels_last(method, size):
    """Connectors run in bfloat16, losses in float32; a last batch of one image is a batch."""
    objective, _ = make(method, precision="bf16")
    exact, _ = make(method)
    batch = batch_of(size)
    losses = objective(batch._replace(images=batch.images.to(memory_format=torch.channels_last)))
    losses.total.backward()
    assert losses.terms["method"].dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in objective.trained_parameters())
    expected = exact(batch).terms["method"].item()
    assert losses.terms["method"].item() == pytest.approx(expected, rel=0.3, abs=0.05)


@pytest.mark.parametrize("method", [method for method in METHODS if method is not HintMethod], ids=label)
def test_zero_for_a_copy_of_the_teacher(method):
    objective, made = make(method, "resnet8", "resnet8")
    objective.student.load_state_dict(objective.teacher.state_dict())
    objective.student.eval()
    batch = batch_of(4)
    if method is FSPMethod:
        (stage,) = made.stages()
        loss = stage.loss(*features(objective.student, objective.teacher, batch), batch)
    else:
        loss = objective(batch).terms["method"]
    assert loss.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("method", EQUAL_CHANNELS, ids=label)
@pytest.mark.parametrize(("teacher", "student"), [*OTHER, ("resnet8x4", "resnet8")], ids=label)
def test_unequal_channels_are_refused(method, teacher, student):
    with pytest.raises(UsageError, match=r"student.*teacher.*use two networks of one family and width"):
        make(method, teacher, student)


@pytest.mark.parametrize("method", EQUAL_CHANNELS, ids=label)
@pytest.mark.parametrize(("teacher", "student"), SAME, ids=label)
def test_equal_channels_are_accepted(method, teacher, student):
    make(method, teacher, student)


def test_fsp_trains_all_but_the_classifier_first_and_nothing_later():
    objective, made = make(FSPMethod, init_epochs=3)
    (stage,) = made.stages()
    assert (stage.epochs, stage.learning_rate, stage.freeze) == (3, 0.05, ())
    batch = batch_of(4)
    FirstStage(objective, stage)(batch).total.backward()
    assert {name for name, p in objective.student.named_parameters() if p.grad is None} == {"fc.weight", "fc.bias"}
    assert list(objective(batch).terms) == ["ce"]


@pytest.mark.parametrize("kernel", ["linear", "poly", "gauss"])
def test_nst_kernel_is_an_option(kernel):
    objective, _ = make(NSTMethod, nst_kernel=kernel)
    losses = objective(batch_of(4))
    losses.total.backward()
    assert losses.terms["method"].item() > 0


def test_gradient_attention_with_the_kl_term():
    """The KL term and the input gradient go back through one graph of the teacher."""
    objective, made = make(AttentionGradMethod)
    objective = weighted(objective, 1, 1, made.weights.beta)
    losses = objective(batch_of(4))
    assert list(losses.terms) == ["ce", "kl", "method"]
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in objective.student.parameters())


def test_gradient_attention_of_a_linear_model():
    """The golden case: x W^T is the network, x the images."""
    for case in heads["at_gradient_formula"]:
        x, w_s, w_t = (draw(case[name]) for name in ("x", "W_s", "W_t"))
        target = torch.from_numpy(np.random.RandomState(921).randint(0, case["C"], size=case["B"]))
        assert case["labels"] == f"ri(921,{case['B']},{case['C']})"
        batch = batch_of(1)._replace(images=x.requires_grad_(), target=target)
        J_s, J_t = (input_gradient(x.double() @ w.T, batch, create_graph=True) for w in (w_s.requires_grad_(), w_t))
        assert GradientAttention()(J_s, J_t).item() == pytest.approx(case["mean_norm"] / 2, rel=1e-6)
        mean_square = (J_s - J_t).square().sum(1).mean()
        assert mean_square.item() == pytest.approx(case["mean_sq_norm"], rel=1e-6)
        (gradient,) = torch.autograd.grad(mean_square, w_s)
        assert gradient.norm().item() == pytest.approx(case["grad_W_s"]["l2"], rel=1e-6)
        assert gradient.flatten()[:3].tolist() == pytest.approx(case["grad_W_s"]["first3"], rel=1e-6)
