"""Head sharing: published values, what trains and what does not, what predicts at test time."""
import numpy as np
import pytest
import torch
from torch import nn

from crd import CRDLoss
from distiller_zoo import KDE, DistillKL, HintMethod, LossWeights, Method, Reads, Stage, TeacherHead, get_method
from errors import UsageError
from helper.objective import FirstStage
from models import create_model, get_classifier
from models.deploy import Mixture, mixture
from models.features import Features
from models.shared_head import share_head
from tests.distiller_zoo import pairs
from tests.distiller_zoo.pairs import CLASSES, batch_of, composed, end_first_stages, weighted
from tests.distiller_zoo.published import gradient_norm, load_parameters
from tests.golden import classic, draw_inputs
from tests.models.test_networks import fill

each_precision = pytest.mark.parametrize(("dtype", "suffix", "tolerance"),
                                         [(torch.float32, "", 1e-4), (torch.float64, "_f64", 1e-6)],
                                         ids=["float32", "float64"])
each_method = pytest.mark.parametrize("method", ["kdth", "kdeth", "crdth"])
WIDTHS = {"equal": ("resnet14", "resnet8"), "unequal": ("wrn_16_2", "resnet8")}
NESTED = ("resnet8", "MobileNetV2")  # its classifier is a layer of a layer
PAIRS = [*WIDTHS.values(), NESTED]


def make(method, *pair, **given):
    """(objective with the published weights, its modifier +th or None) of a new pair, at 16 pixels.

    method: a name or a Composition.
    """
    method = get_method(method) if isinstance(method, str) else method
    given = {"targets": torch.arange(100) % CLASSES, "nce_k": 16} | given
    objective, _ = pairs.make(method, *pair, image_size=16, **given)
    return objective, dict(objective.modifiers).get("th")


def random_embeddings(batch, width, seed=0, dtype=torch.float32):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Says(nn.Module):
    """A network or a layer whose output was decided before."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *inputs, **settings):
        return self.output


def loss_of_said(objective, inputs, batch, beta, step=""):
    """The total loss of networks that say what `inputs` holds, without cross-entropy and KL."""
    e_s, e_t, z_s, z_t = (inputs.get(name + step, torch.zeros(4, 16)) for name in ("e_s", "e_t", "y_s", "y_t"))
    if "y_s_th" + step in inputs:
        objective.modifiers["th"].head = Says(inputs["y_s_th" + step])
    objective.student, objective.teacher = Says(([e_s], z_s)), Says(([e_t.detach()], z_t.detach()))
    return weighted(objective, 0, 0, beta)(batch).total


@each_precision
@pytest.mark.parametrize(("key", "method", "beta"), [("KDTH", "kdth", 0), ("KDE", "kde", 1), ("KDETH", "kdeth", 1)])
def test_published_values(key, method, beta, dtype, suffix, tolerance):
    """Composed by the objective, from the networks' embeddings and logits."""
    for case in classic["losses"][key]["cases"]:
        objective, _ = make(method, kdth_t=case["ctor"].get("T"), delta=case["ctor"].get("th_weight", 1.0))
        inputs = draw_inputs(case, dtype)
        loss = loss_of_said(objective, inputs, batch_of(4, 16), beta)
        loss.backward()
        assert loss.shape == ()
        assert loss.item() == pytest.approx(case["out"]["loss" + suffix], rel=tolerance)
        norms = {name: x.grad.norm().item() for name, x in inputs.items() if x.grad is not None}
        assert norms == pytest.approx(case["out"]["grad_norm" + suffix], rel=tolerance)


@each_precision
def test_published_values_of_crdth(dtype, suffix, tolerance):
    """Two steps: the banks and normalisers of the first one are seen by the second."""
    for case in classic["losses"]["CRDTH"]["cases"]:
        published = case["out"]["f64"] if suffix else case["out"]
        settings = dict(case["ctor"])
        objective, _ = make("crdth", delta=settings.pop("th_weight"), kdth_t=settings.pop("T_th"))
        objective.method.loss = load_parameters(CRDLoss(**settings), case["params"][0]).to(dtype)
        inputs = {name.replace("f_", "e_"): x for name, x in draw_inputs(case, dtype).items()}
        for step in ("1", "2"):
            objective.method.sampler = Says(inputs["cidx" + step])
            objective.method.loss.zero_grad()
            loss = loss_of_said(objective, inputs, batch_of(4, 16)._replace(index=inputs["idx" + step]), 1, step)
            loss.backward()
            assert loss.item() == pytest.approx(published["loss" + step], rel=tolerance)
            gradient = inputs["e_s" + step].grad.norm().item()
            assert gradient == pytest.approx(published["grad_norm_f_s" + step], rel=tolerance)
            norm = gradient_norm(objective.method.loss)
            assert norm == pytest.approx(published["param_grad_norm" + step], rel=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("case", classic["misc"]["ModelTH"], ids=lambda case: f"{case['student']}-{case['teacher']}")
def test_published_student_with_two_heads(case):
    student, teacher = (create_model(case[role], 100) for role in ("student", "teacher"))
    fill(student, case["student_fill_seed"])
    fill(teacher, case["teacher_fill_seed"])
    if case["do_init_s_from_th"]:
        get_classifier(student).load_state_dict(get_classifier(teacher).state_dict())
    head = TeacherHead(get_classifier(teacher), get_classifier(student).in_features)
    x = torch.from_numpy(np.random.RandomState(case["seed"]).randn(*case["input"]["shape"]).astype("float32"))
    feats, z_s = student.train()(x, is_feat=True)
    z_th = head(feats[-1])
    assert z_s.norm().item() == pytest.approx(case["logits_l2"], rel=1e-4)
    assert z_th.norm().item() == pytest.approx(case["logits_th_l2"], rel=1e-4)
    assert z_s[0, :4].tolist() == pytest.approx(case["logits_0_4"], rel=1e-4)
    assert z_th[0, :4].tolist() == pytest.approx(case["logits_th_0_4"], rel=1e-4)
    assert torch.equal(z_s, student(x))
    assert [f"t_head.{key}" for key in head.state_dict()] == case["extra_keys"]
    trained = [p for module in (student, head) for p in module.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == case["trainable"]
    assert get_classifier(teacher).weight.requires_grad  # the head is a copy: the teacher is as it was


def test_gradient_of_kde():
    e_s, e_t = (random_embeddings(3, 5, seed, torch.float64) for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda e: KDE()(e, e_t), e_s.requires_grad_())


@pytest.mark.parametrize("batch", [1, 4])
def test_zero_at_a_perfect_match(batch):
    e, classifier = random_embeddings(batch, 16).requires_grad_(), nn.Linear(16, CLASSES)
    assert KDE()(e, e).item() == pytest.approx(0, abs=1e-6)
    assert DistillKL(4.0)(TeacherHead(classifier)(e), classifier(e).detach()).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("scale_s", [0, 1e-8, 1, 1e4])
@pytest.mark.parametrize("scale_t", [0, 1, 1e4])
def test_finite_for_zero_and_extreme_embeddings(batch, scale_s, scale_t):
    e_s = (scale_s * random_embeddings(batch, 16)).requires_grad_()
    e_t = scale_t * random_embeddings(batch, 16, seed=1)
    loss = KDE()(e_s, e_t)
    loss.backward()
    assert 0 <= loss.item() <= 4 * batch + 1e-4
    assert e_s.grad.isfinite().all()
    if scale_s == 0:
        assert e_s.grad.abs().max() == 0


def test_extreme_logits_of_the_teachers_head():
    _, th = make("kdth")
    e = torch.zeros(2, 64, requires_grad=True)
    nn.init.zeros_(th.head.weight)
    th.head.bias.data = torch.tensor([1e4, -1e4] * (CLASSES // 2))
    s, t = Features([e], None), Features([e], torch.tensor([[-1e4, 1e4] * (CLASSES // 2), [0.0] * CLASSES]))
    (term,) = th.terms()
    loss = term(s, t, None)[0]["th"]
    loss.backward()
    assert loss.isfinite()
    assert e.grad.isfinite().all()


@each_method
@pytest.mark.parametrize("size", [1, 3])
def test_bf16_and_a_short_last_batch(method, size):
    """Losses are float32, for one image too."""
    objective, _ = make(method, *WIDTHS["unequal"], precision="bf16", th_inference=1)
    exact, _ = make(method, *WIDTHS["unequal"])
    batch = batch_of(size, 16)
    losses = objective(batch)
    losses.total.backward()
    assert {term.dtype for term in losses.terms.values()} == {torch.float32}
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.trained_parameters())
    assert losses.terms["th"].item() == pytest.approx(exact(batch).terms["th"].item(), rel=0.3, abs=0.01)
    assert losses.logits.dtype == torch.bfloat16


@pytest.mark.parametrize("width", [None, 7, 16, 30])
@pytest.mark.parametrize("bias", [True, False])
def test_the_folded_head_is_adapter_and_head(width, bias):
    torch.manual_seed(0)
    head = TeacherHead(nn.Linear(16, CLASSES, bias=bias), width)
    folded, e = head.folded(), random_embeddings(4, width or 16)
    assert type(folded) is nn.Linear
    assert folded.weight.requires_grad
    assert (head.adapter is not None) == (width in (7, 30))
    torch.testing.assert_close(folded(e), head(e))


def test_unequal_widths_train_the_adapter_and_not_the_head():
    objective, th = make("kdth", *WIDTHS["unequal"])
    objective(batch_of(4, 16)).total.backward()
    assert th.head.adapter.weight.shape == (128, 64)
    assert all(p.grad.norm() > 0 for p in th.head.adapter.parameters())
    frozen = [th.head.weight, th.head.bias]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert not {id(p) for p in frozen} & {id(p) for p in objective.trained_parameters()}
    assert torch.equal(th.head.weight, get_classifier(objective.teacher).weight)
    assert th.head.weight.data_ptr() != get_classifier(objective.teacher).weight.data_ptr()


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_the_term_reaches_backbone_and_adapter_alone(teacher, student):
    objective, th = make("kdth", teacher, student)
    only_th = weighted(objective, 0, 0, 0)
    losses = only_th(batch_of(4, 16))
    assert list(losses.terms) == ["th"]
    losses.total.backward()
    untouched = {name for name, p in only_th.student.named_parameters() if p.grad is None}
    assert untouched == {f"{only_th.student.head}.{name}" for name in ("weight", "bias")}
    assert all((p.grad is not None) == ("adapter" in name) for name, p in th.named_parameters())
    assert all(p.grad is None for p in only_th.teacher.parameters())


@pytest.mark.parametrize("name", ["kdth", "kdeth", "attention_grad+th"])
def test_no_gradient_to_the_teacher(name):
    """Also where a method differentiates it by the images, and so has its graph."""
    objective, th = make(name)
    e_s, e_t = (random_embeddings(4, 64, seed).requires_grad_() for seed in (0, 1))
    z_t = random_embeddings(4, CLASSES, 2).requires_grad_()
    s, t = Features([e_s], None), Features([e_t], z_t)
    (term,) = th.terms()
    loss = sum(term(s, t, None)[0].values())
    if name == "kdeth":
        loss = loss + objective.method(s, t, None)
    loss.backward()
    assert e_s.grad.norm() > 0
    assert e_t.grad is z_t.grad is None


@pytest.mark.parametrize("method", ["kdeth", "crdth"])
def test_delta_is_not_lost_when_beta_is_0(method):
    """The published code wrote beta * (L + delta / beta * KL)."""
    objective, _ = make(method, delta=0.5)
    batch = batch_of(4, 16)
    with_beta, without = (weighted(objective, 1, 0, beta)(batch).terms for beta in (0.8, 0))
    assert list(with_beta) == ["ce", "method", "th"]
    assert list(without) == ["ce", "th"]
    assert without["th"].item() == pytest.approx(with_beta["th"].item(), rel=1e-5)
    assert without["th"] > 0


def test_the_first_stage_is_the_methods_own():
    objective, th = make("factor+th", *WIDTHS["unequal"], init_epochs=7)
    batch, factor = batch_of(4, 16), objective.method
    (stage,) = factor.stages()
    assert (stage.epochs, stage.learning_rate) == (7, 0.01)
    s, t = (objective.features(network, batch.images) for network in (objective.student, objective.teacher))
    loss = FirstStage(objective, stage)(batch).total
    assert loss.item() == pytest.approx(stage.loss(s, t, batch).item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in th.parameters())
    end_first_stages(factor)
    assert not any(p.requires_grad for p in factor.paraphraser.parameters())
    assert all(p.requires_grad for p in th.head.adapter.parameters())
    abound = make("abound+th", init_epochs=7)[0].method
    assert abound.stages()[0].reads.preact
    assert abound.reads is None


def test_all_that_a_method_says_of_itself_is_passed_on():
    base, both = get_method("hint"), get_method("hint+th")
    assert both.method is base.method is HintMethod
    assert (both.reads, both.needs_teacher) == (base.reads, base.needs_teacher)
    assert both.weights == base.weights._replace(delta=0.02)
    assert both.options[:len(base.options)] == base.options
    assert {option.name for option in both.options[len(base.options):]} == {
        "kdth_t", "th_adapter", "th_inference", "validation_th_weight"}
    objective, th = make(both, delta=0.0)
    assert (type(objective.method), objective.t_depth, th.terms()) == (HintMethod, 3, [])


class Busy(Method):
    """A method that says all that one can say."""

    weights = LossWeights(1.0, 0.0, 1.0, "none")
    reads = Reads(depth=3, input_gradient=True)
    updates = 2

    def forward(self, s, t, batch):
        return {"own": torch.tensor(5.0), "logits": torch.full((len(batch.target), CLASSES), 7.0)}

    def update_loss(self, update, s, batch):
        return torch.tensor(10.0 * update)

    def stages(self):
        return [Stage(1, 0.1, lambda s, t, batch: torch.tensor(3.0), Reads(student=False, preact=True))]


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_a_method_of_updates_and_terms_keeps_them(delta):
    objective, _ = make(composed(Busy).with_modifiers(["th"]), delta=delta)
    (stage,) = objective.method.stages()
    assert (objective.updates, objective.input_gradient) == (2, True)
    assert (stage.reads.preact, stage.reads.student) == (True, False)
    assert FirstStage(objective, stage)(batch_of(4, 16)).total == 3
    assert objective.t_depth == (None if delta else 3)  # the head's term reads the teacher's logits
    losses = objective(batch_of(4, 16))
    assert list(losses.terms) == ["ce", "own"] + ["th"] * bool(delta)
    assert losses.terms["own"] == 5
    assert torch.equal(losses.logits, torch.full((4, CLASSES), 7.0))
    assert objective(batch_of(4, 16), 1).total == 10


def test_a_delta_of_0_needs_no_teacher():
    objective, _ = make("kdth", delta=0.0)
    objective.teacher.forward = None  # calling it would fail
    assert list(weighted(objective, 1, 0, 0)(batch_of(4, 16)).terms) == ["ce"]
    with pytest.raises(UsageError, match="no loss has a weight"):
        weighted(objective, 0, 0, 0)
    with pytest.raises(UsageError, match="--delta 0 leaves the adapter"):
        make("kdth", *WIDTHS["unequal"], delta=0.0, th_inference=1)


# What predicts at test time


@pytest.mark.parametrize("scale", [1, 1e4])
@pytest.mark.parametrize("th_weight", [1e-9, 0.3, 0.5, 1])
def test_a_mixture_is_of_probabilities(scale, th_weight):
    z_s, z_th = (scale * random_embeddings(5, CLASSES, seed) for seed in (0, 1))
    mixed = mixture(z_s, z_th, th_weight).softmax(1)
    torch.testing.assert_close(mixed, (1 - th_weight) * z_s.softmax(1) + th_weight * z_th.softmax(1))
    if th_weight == 1:
        assert mixture(z_s, z_th, th_weight) is z_th
    else:
        torch.testing.assert_close(mixture(z_s, z_th, th_weight).exp().sum(1), torch.ones(5))


@pytest.mark.parametrize("given", [{}, {"th_inference": 1}, {"validation_th_weight": 1.0},
                                   {"validation_th_weight": 0.3}],
                         ids=["own", "teacher's", "weight 1", "mixture"])
@pytest.mark.parametrize(("pair", "precision"), [*((pair, "fp32") for pair in PAIRS), (WIDTHS["unequal"], "bf16")])
def test_what_is_deployed_predicts_what_was_counted(pair, given, precision):
    objective, th = make("kdth", *pair, precision=precision, **given)
    deployed, batch = objective.deployed(), batch_of(3, 16)
    objective.eval()
    with torch.no_grad():
        counted, device = objective(batch).logits, objective.network.device
        with device.autocast():
            torch.testing.assert_close(deployed(batch.images), counted)
            feats, z_s = objective.student(batch.images, is_feat=True)
            z_th = th.head(feats[-1])
    th_weight = given.get("validation_th_weight", float("th_inference" in given))
    expected = (1 - th_weight) * z_s.float().softmax(1) + th_weight * z_th.float().softmax(1)
    torch.testing.assert_close(counted.float().softmax(1), expected)
    assert isinstance(deployed, Mixture) == (th_weight == 0.3)
    assert (deployed is objective.student) == objective.deployment().is_student == (th_weight == 0)
    assert get_classifier(objective.student) is not th.head  # the student is left whole


def test_what_is_deployed_follows_training():
    objective, _ = make("kdth", *WIDTHS["unequal"], th_inference=1)
    deployed, batch = objective.deployed(), batch_of(4, 16)
    before = deployed.eval()(batch.images)
    optimizer = torch.optim.SGD(objective.trained_parameters(), lr=0.1)
    objective.train()(batch).total.backward()
    optimizer.step()
    assert not torch.allclose(deployed.eval()(batch.images), before)


def test_a_copied_head_is_frozen_behind_its_adapter():
    for teacher, student in PAIRS:
        model, head = create_model(student, CLASSES), get_classifier(create_model(teacher, CLASSES))
        shape = get_classifier(model).weight.shape
        share_head(model, head)
        shared = get_classifier(model)
        assert torch.equal(shared.weight, head.weight)
        assert {name for name, p in shared.named_parameters() if p.requires_grad} == (
            set() if head.weight.shape == shape else {"adapter.weight", "adapter.bias"})
        assert model(batch_of(2, 16).images).shape == (2, CLASSES)


# Refusals


@pytest.mark.parametrize("name", ["kdth+th", "crd+th+th", "kdeth+th", "crdth+th"])
def test_a_second_teachers_head_is_refused(name):
    with pytest.raises(UsageError, match=r"has \+th already: leave out the second"):
        get_method(name)


@pytest.mark.parametrize(("method", "message"), [
    ("kdth", "the classifier reads 128 features and the embedding has 64: use --th_adapter linear"),
    ("kde", "the teacher's embedding has 128 features and the student's 64: use --th_adapter linear"),
    ("kdeth", "the teacher's embedding has 128 features and the student's 64")])
def test_unequal_widths_without_an_adapter_are_refused(method, message):
    with pytest.raises(UsageError, match=message):
        make(method, *WIDTHS["unequal"], th_adapter="none")
    make(method, *WIDTHS["equal"], th_adapter="none")


@pytest.mark.parametrize("given", [{"th_inference": 1}, {"validation_th_weight": 0.5}])
def test_a_method_that_predicts_in_its_own_way_keeps_it(given):
    with pytest.raises(UsageError, match="predicts in its own way"):
        make("simkd+th", **given)


def test_teachers_without_a_linear_classifier_are_refused():
    with pytest.raises(UsageError, match="no linear classifier"):
        pairs.make(get_method("kdth"), teacher="torchvision/squeezenet1_1", image_size=64)


def test_one_class_for_each_method():
    assert get_method("crd+th") == get_method("crd+th")
    assert get_method("crd+th").method is get_method("crdth").method is get_method("crd").method
    assert get_method("crd+th").weights == get_method("crd").weights._replace(delta=0.02)
