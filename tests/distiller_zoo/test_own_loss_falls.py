"""What every method teaches can be learned: its own term, and each first stage's loss, fall on one fixed batch.

Whoever learns it, the student alone or the method's own modules alone: neither may hide that nothing reaches the other.
"""
import pytest
import torch

from distiller_zoo import Method, get_method, methods
from helper.objective import FirstStage
from models import create_model, feature_shapes
from models.heads import Heads
from models.tuned import heads_name, save_heads
from tests.distiller_zoo.pairs import CLASSES, batch_of, end_first_stages, make, weighted

SIZE, STEPS = 16, 8
GIVEN = {"targets": torch.arange(100) % CLASSES, "nce_k": 16, "batch_size": 8, "model_s": "resnet8"}
MORE = {"mhkd": {"head_stages": [3]}}  # the smallest map: a head on the first one takes twenty times as long
LEAST = {"vid": 0.002}  # the least fall, as a share of the loss; of vid's 2.7 its variance is 2.4
OWN = [name for name in methods if get_method(name).reads is not None and not get_method(name).modifiers]
STAGED = [("hint", {"hint_stage": "two"}), ("abound", {"teacher": "resnet14x2"}), ("factor", {}), ("fsp", {})]
# Without modules that learn in the main stage, or none that the student's update trains (dml's peers).
STUDENT_ALONE = {"kdmse", "attention", "attention_grad", "nst", "similarity", "rkd", "pkt", "kdsvd", "dih", "dml",
                 "kde"}


def values_in_training(objective, parameters, update=0):
    """The loss before each of a few steps on one batch, and after the last."""
    batch, values = batch_of(8, SIZE), []
    optimizer = torch.optim.Adam(parameters, lr=0.002)
    for _ in range(STEPS + 1):
        torch.manual_seed(0)  # crd draws its negatives
        total = objective(batch, update).total
        values.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return values


def fell(values, least=0.01):
    """From above zero: every loss is a distance or a likelihood of what is far from learned, so none begins below."""
    return values[0] > 0 and values[-1] < (1 - least) * values[0]


def trained(module):
    return [p for p in module.parameters() if p.requires_grad]


@pytest.fixture
def given(tmp_path):
    """Options of each method, with untrained heads of the teacher in files, for those that take them from there."""
    torch.manual_seed(0)
    shapes = feature_shapes(create_model("resnet14", CLASSES), SIZE)[1:-1]
    facts = {"num_classes": CLASSES, "teacher_arch": "resnet14", "teacher_hash": "1a2b3c"}
    for kind in ("flat", "sepconv"):
        save_heads(tmp_path / f"{heads_name(kind)}.pth", Heads(shapes, [1, 2, 3], CLASSES, kind), facts)
    places = {"path_t": str(tmp_path / "last.pth"), "path_heads": str(tmp_path), "model_t": None, "data_dir": "data"}

    def of(name):
        heads = (get_method(name).reads or Method.reads).heads
        return GIVEN | {"teacher_hash": "1a2b3c"} | MORE.get(name, {}) | (places if heads else {})

    return of


@pytest.mark.parametrize("name", OWN)
def test_the_student_learns_it(name, given):
    objective, made = make(get_method(name), image_size=SIZE, **given(name))
    end_first_stages(made)
    values = values_in_training(weighted(objective, 0, 0, 1), trained(objective.student))
    assert fell(values, LEAST.get(name, 0.01)), values


@pytest.mark.parametrize("name", [name for name in OWN if name not in STUDENT_ALONE])
def test_the_methods_own_modules_learn_it(name, given):
    objective, made = make(get_method(name), image_size=SIZE, **given(name))
    end_first_stages(made)
    values = values_in_training(weighted(objective, 0, 0, 1), trained(made))
    assert fell(values, LEAST.get(name, 0.01)), values


@pytest.mark.parametrize("name", sorted(STUDENT_ALONE))
def test_methods_without_modules_that_learn(name, given):
    _, made = make(get_method(name), image_size=SIZE, **given(name))
    assert (trained(made) == []) == (name != "dml")


def test_peers_learn_in_their_own_updates(given):
    objective, made = make(get_method("dml"), image_size=SIZE, peers=["resnet8", "resnet14"], **given("dml"))
    assert objective.updates == 3
    for update, peer in enumerate(made.peers, 1):
        values = values_in_training(objective, trained(peer), update=update)
        assert fell(values), values


@pytest.mark.parametrize("name", ["kd", "kd+ls", "kd+th"])
def test_terms_on_logits_are_learned(name):
    """The KL of alpha, as itself and on standardised logits, and the teacher's head's."""
    objective, _ = make(get_method(name), image_size=SIZE, **GIVEN)
    objective = weighted(objective, 0, float(name != "kd+th"), 0)
    assert list(objective(batch_of(2, SIZE)).terms) == (["th"] if name == "kd+th" else ["kl"])
    values = values_in_training(objective, trained(objective.student))
    assert fell(values), values


def test_methods_with_a_first_stage_are_all_here():
    assert {name for name, _ in STAGED} == {name for name in methods if overrides_stages(get_method(name).method)}


def overrides_stages(method):
    return method.stages is not Method.stages


@pytest.mark.parametrize("who", ["student", "method"])
@pytest.mark.parametrize(("name", "more"), STAGED, ids=[name for name, _ in STAGED])
def test_first_stage(name, more, who, given):
    objective, made = make(get_method(name), image_size=SIZE, **given(name), **more)
    (stage,) = made.stages()
    parameters = trained(getattr(objective, who))
    if who == "student" and not stage.reads.student:  # factor's paraphraser is of the teacher alone
        FirstStage(objective, stage)(batch_of(8, SIZE)).total.backward()
        assert all(p.grad is None for p in parameters)
    elif parameters:
        values = values_in_training(FirstStage(objective, stage), parameters)
        assert fell(values), values
    else:
        assert name == "fsp"
