"""Sharing classifiers through the entry scripts: what stays frozen, what predicts, what a run's files are good for."""
import dataclasses
import json
import shlex
import signal

import pytest
import torch

import evaluate
import train_student
import train_teacher
from cli.options import student_options, teacher_options
from dataset import dataset_dict
from distiller_zoo import get_method, methods
from errors import UsageError
from helper.progress import Progress
from models import create_model, get_classifier, load_model, read_checkpoint
from models.probe import weights_hash
from runs.record import RunRecord
from tests.conftest import STEPS, TINY, build_tiny, distilling, on_other_data, recorded
from tests.test_resume import Stop, assert_same, stop_at

QUICK = [*TINY, "--image_size", "8"]
DECAY = ["--weight_decay", "0.1"]  # nothing that the optimiser holds keeps its bits under it
OPTIMIZERS = {"momentum": [], "nesterov": ["--nesterov", "1"], "plain": ["--momentum", "0", "--nesterov", "0"]}
STUDENT = ["--path_t", "teacher.pth"]


def train(script, *args):
    """The directory of a run of QUICK, given its --save_dir."""
    *_, save = args
    script.main([*QUICK, *map(str, args[:-1]), "--save_dir", str(save), "--name", "run"])
    return save / ("students" if script is train_student else "teachers") / "run"


def student_run(teacher, *args):
    return train(train_student, "--path_t", teacher, "--skip_validation", *args)


def last_row(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def head_of(run):
    """weight and bias of the classifier in a run's last.pth: as it was saved, without an adapter before it."""
    state = read_checkpoint(run)["model"]
    return state["fc.weight"], state["fc.bias"]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def wide_dir(tmp_path_factory):
    """Directory of a wrn_16_2, whose embedding has 128 features where resnet8's has 64."""
    return train(train_teacher, "--model", "wrn_16_2", tmp_path_factory.mktemp("wide"))


@pytest.fixture(params=["equal", "unequal"])
def any_teacher(request):
    """Of the width of resnet8's embedding, and of another."""
    return request.getfixturevalue({"equal": "teacher_dir", "unequal": "wide_dir"}[request.param])


@pytest.fixture(scope="module")
def adapted_run(wide_dir, tmp_path_factory):
    """A resnet8 whose classifier is the wide teacher's, behind an adapter."""
    return student_run(wide_dir, "--model_s", "resnet8", "--copy_head", "1", *DECAY, tmp_path_factory.mktemp("adapted"))


@pytest.fixture
def refused(refused):
    """As everywhere, on little data."""
    return lambda script, *args: refused(script, *QUICK, *args)


@pytest.fixture
def scores(command, tmp_path):
    """scores(run, *args): what evaluate.py finds."""

    def call(run, *args):
        status, _, err = command(evaluate, "--path", run, "--precision", "fp32", "--json", tmp_path / "scores.json",
                                 *args)
        assert status == 0, err
        return json.loads((tmp_path / "scores.json").read_text())

    return call


def assert_recorded(found, run):
    row = last_row(run)
    assert (found["acc"], found["acc_top5"]) == (row["test_acc"], row["test_acc_top5"])
    assert found["loss"] == pytest.approx(row["test_loss"], rel=1e-5)


# Frozen heads


def trained_shapes(run):
    """Shapes of what the optimiser has momentum for: one for each parameter that it was given."""
    optimizer = read_checkpoint(run)["optimizer"]
    (group,) = optimizer["param_groups"]
    assert sorted(optimizer["state"]) == sorted(group["params"])
    return sorted(tuple(state["momentum_buffer"].shape) for state in optimizer["state"].values())


def shapes(model, but=()):
    return [tuple(p.shape) for name, p in create_model(model, 10).named_parameters() if name not in but]


HEAD = ("fc.weight", "fc.bias")
ADAPTER = [(128, 64), (128,)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay", ["0", "0.1"])
def test_frozen_heads_keep_their_bits(wide_dir, tmp_path, optimizer, decay):
    """Whatever the optimiser: a copied and a second head in one run, and the head that a teacher shares."""
    settings = [*OPTIMIZERS[optimizer], "--weight_decay", decay]
    run = student_run(wide_dir, "--model_s", "resnet8", "--copy_head", "--distill", "kdth", *settings, tmp_path)
    state = read_checkpoint(run)
    assert same(head_of(run), head_of(wide_dir))
    assert same((state["modifiers"]["th.head.weight"], state["modifiers"]["th.head.bias"]), head_of(wide_dir))
    (group,) = state["optimizer"]["param_groups"]
    assert len(group["params"]) == len(shapes("resnet8", HEAD)) + 2 * len(ADAPTER)
    run = train(train_teacher, "--model", "resnet8", "--path_th", wide_dir, *settings, tmp_path)
    assert same(head_of(run), head_of(wide_dir))


def test_a_copied_head_stays_the_teachers(any_teacher, wide_dir, tmp_path):
    run = student_run(any_teacher, "--model_s", "resnet14", "--copy_head", "1", *DECAY, tmp_path)
    assert same(head_of(run), head_of(any_teacher))
    adapter = ADAPTER if any_teacher == wide_dir else []
    assert trained_shapes(run) == sorted([*shapes("resnet14", HEAD), *adapter])


def test_a_second_head_stays_the_teachers(any_teacher, wide_dir, tmp_path):
    run = student_run(any_teacher, "--model_s", "resnet14", "--distill", "kdth", *DECAY, tmp_path)
    state = read_checkpoint(run)["modifiers"]
    assert same((state["th.head.weight"], state["th.head.bias"]), head_of(any_teacher))
    assert not torch.equal(head_of(run)[1], head_of(any_teacher)[1])
    adapter = ADAPTER if any_teacher == wide_dir else []
    assert trained_shapes(run) == sorted([*shapes("resnet14"), *adapter])


def test_a_teacher_keeps_the_head_that_it_shares(any_teacher, wide_dir, tmp_path):
    run = train(train_teacher, "--model", "resnet14", "--path_th", any_teacher, *DECAY, tmp_path)
    assert same(head_of(run), head_of(any_teacher))
    adapter = ADAPTER if any_teacher == wide_dir else []
    assert trained_shapes(run) == sorted([*shapes("resnet14", HEAD), *adapter])


def test_a_copied_and_a_second_head_in_one_run(wide_dir, tmp_path, scores):
    run = student_run(wide_dir, "--model_s", "resnet8", "--copy_head", "1", "--distill", "crd+th", "--th_inference",
                      "--nce_k", "16", tmp_path)
    assert same(head_of(run), head_of(wide_dir))
    embeds = [(128, 64), (128,), (128, 128), (128,)]  # crd's, of student and teacher
    assert trained_shapes(run) == sorted([*shapes("resnet8", HEAD), *ADAPTER, *ADAPTER, *embeds])
    assert_recorded(scores(run), run)


def test_simkd_leaves_a_copied_head_out(wide_dir, tmp_path, scores):
    """It has another way to the teacher's classifier: no adapter is needed, counted or run."""
    run = student_run(wide_dir, "--model_s", "resnet8", "--copy_head", "1", "--distill", "simkd", tmp_path)
    assert_recorded(scores(run), run)
    parameters = [recorded(directory)["parameters"] for directory in (
        run, student_run(wide_dir, "--model_s", "resnet8", "--distill", "simkd", tmp_path / "plain"))]
    assert parameters[0] == parameters[1]


def test_a_head_can_start_as_the_teachers_and_train(teacher_dir, tmp_path, monkeypatch):
    started = []

    def watched(objective, *rest):
        classifier = get_classifier(objective.student)
        started.extend(p.detach().clone() for p in classifier.parameters() if p.requires_grad)
        fit(objective, *rest)

    fit = train_student.fit
    monkeypatch.setattr(train_student, "fit", watched)
    run = student_run(teacher_dir, "--model_s", "resnet14", "--do_init_s_from_th", "1", tmp_path)
    assert same(started, head_of(teacher_dir))
    assert not torch.equal(head_of(run)[0], started[0])
    assert trained_shapes(run) == sorted(shapes("resnet14"))


def test_heads_that_cannot_be_shared(refused, wide_dir, teacher_dir):
    wide = ["--path_t", wide_dir, "--model_s", "resnet8", "--skip_validation"]
    message = refused(train_student, *wide, "--do_init_s_from_th")
    assert "the teacher's classifier reads 128 features and resnet8's 64" in message
    assert "--copy_head" in message
    for args in (["--copy_head"], ["--distill", "kdth"]):
        assert "reads 128 features and the embedding has 64" in refused(train_student, *wide, *args, "--th_adapter",
                                                                        "none")
    message = refused(train_student, *wide, "--distill", "kde", "--th_adapter", "none")
    assert "the teacher's embedding has 128 features and the student's 64" in message
    assert "give one of them" in refused(train_student, "--path_t", teacher_dir, "--copy_head", "--do_init_s_from_th")
    assert "embedding has 64" in refused(train_teacher, "--model", "resnet8", "--path_th", wide_dir, "--th_adapter",
                                         "none")


# SH-KD's teacher


def test_a_teachers_name_says_whose_head_it_has(teacher_dir, tmp_path):
    train_teacher.main([*QUICK, "--model", "resnet14", "--path_th", str(teacher_dir), "--save_dir", str(tmp_path)])
    (directory,) = (tmp_path / "teachers").iterdir()
    digits = weights_hash(get_classifier(load_model(teacher_dir)))[:6]
    assert directory.name.startswith(f"resnet14_tiny_th-resnet8-{digits}_epochs-1")
    assert str(tmp_path) not in directory.name
    assert recorded(directory)["inputs"]["th"] == f"resnet8-{digits}"
    assert load_model(directory).name == "resnet14"


def published(path, state, **more):
    """A file with HeadSharingKD's keys."""
    path.parent.mkdir(exist_ok=True)
    torch.save({"epoch": 240, "model": state} | more, path)
    return path


def two_headed(model, **more):
    """The state of HeadSharingKD's student beside a teacher's head."""
    head = get_classifier(create_model("resnet8", 10)).state_dict()
    return {f"model_s.{key}": tensor for key, tensor in model.state_dict().items()} | {
        f"t_head.{key}": tensor for key, tensor in head.items()} | more


def test_a_published_student_shares_its_own_head(tmp_path):
    model = create_model("resnet8", 10)
    path = published(tmp_path / "resnet8_student.pth", two_headed(model), best_acc=torch.tensor(73.0))
    run = train(train_teacher, "--model", "resnet14", "--path_th", path, tmp_path)
    assert same(head_of(run), model.fc.parameters())


def without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


@pytest.mark.parametrize(("other", "warned"), [
    ({"name": "digits"}, True), ({"mean": [0.1, 0.2, 0.3]}, True), ({}, False)], ids=["name", "mean", "same"])
def test_a_head_of_other_data_is_warned_of(teacher_dir, tmp_path, command, other, warned):
    raw = read_checkpoint(teacher_dir)
    torch.save(on_other_data(raw, **other), tmp_path / "resnet8.pth")
    size = ["--image_size", "16"]  # the shared teacher's: another one has another mean
    status, _, err = command(train_teacher, *TINY, *size, "--model", "resnet14", "--path_th", tmp_path / "resnet8.pth",
                             "--save_dir", tmp_path)
    assert status == 0
    assert ("the classifier to share was trained on other data" in err) == warned


REFUSED_HEADS = {
    "another class count": (lambda path: published(path, create_model("resnet8", 7).state_dict()),
                            "the classifier to share is of 7 classes, not 10"),
    "missing": (lambda path: None, "no checkpoint at"),
    "foreign": (lambda path: path.write_text("<html>not found</html>"), "not a checkpoint"),
    "a missing key": (lambda path: published(path, without(create_model("resnet8", 10).state_dict(), "bn1.bias")),
                      "(bn1.bias is missing)"),
    "an unexpected key": (lambda path: published(path, two_headed(create_model("resnet8", 10), extra=torch.zeros(1))),
                          "(extra is not part of it)"),
    "a prefix in the middle": (lambda path: published(path, two_headed(create_model("resnet8", 10), **{
        "model_s.layer1.model_s.weight": torch.zeros(1)})), "(layer1.model_s.weight is not part of it)"),
    "another architecture": (lambda path: published(path, create_model("vgg8", 10).state_dict()),
                             "does not fit resnet8"),
}


@pytest.mark.parametrize("kind", REFUSED_HEADS)
def test_files_without_a_head_to_share(refused, tmp_path, kind):
    make, message = REFUSED_HEADS[kind]
    path = tmp_path / "resnet8_student.pth"
    make(path)
    assert message in refused(train_teacher, "--model", "resnet14", "--path_th", path)


# Unequal widths: behind an adapter, and folded for whoever reads the file


def test_an_adapted_student_is_scored_as_it_was(adapted_run, scores):
    assert {"fc.adapter.weight", "fc.adapter.bias"} < read_checkpoint(adapted_run)["model"].keys()
    assert_recorded(scores(adapted_run), adapted_run)


def test_an_adapted_student_loads_as_a_plain_network(adapted_run):
    model, plain = load_model(adapted_run), create_model("resnet8", 10)
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
        key: tensor.shape for key, tensor in plain.state_dict().items()}
    assert type(get_classifier(model)) is torch.nn.Linear
    assert all(p.requires_grad for p in model.parameters())


def test_parameters_are_those_of_the_network_that_is_read_back(adapted_run, wide_dir, tmp_path):
    """A copied head, and a teacher's that predicts, each behind an adapter: as one layer of the student's width."""
    second = student_run(wide_dir, "--model_s", "resnet8", "--distill", "kdth", "--th_inference", tmp_path)
    for run in (adapted_run, second):
        counted = recorded(run)["parameters"]
        assert counted == sum(p.numel() for p in load_model(run).parameters())


def test_an_adapted_student_is_the_next_teacher(adapted_run, tmp_path, capfd):
    train_student.main([*QUICK, "--path_t", str(adapted_run), "--model_s", "resnet8", "--distill", "kdth",
                        "--save_dir", str(tmp_path)])
    accuracy = last_row(adapted_run)["test_acc"]
    assert f"teacher resnet8: {accuracy:.2f}% on the test images (its" in capfd.readouterr().out
    (run,) = (tmp_path / "students").iterdir()
    state = read_checkpoint(run)["modifiers"]
    assert same((state["th.head.weight"], state["th.head.bias"]), get_classifier(load_model(adapted_run)).parameters())


def test_an_adapted_student_shares_its_head(adapted_run, tmp_path):
    run = train(train_teacher, "--model", "resnet14", "--path_th", adapted_run, tmp_path)
    assert same(head_of(run), get_classifier(load_model(adapted_run)).parameters())


def test_an_adapted_teacher_teaches(wide_dir, tmp_path, capfd, scores):
    """SH-KD between unequal widths, and its student."""
    teacher = train(train_teacher, "--model", "resnet8", "--path_th", wide_dir, tmp_path)
    assert_recorded(scores(teacher), teacher)
    train_student.main([*QUICK, "--path_t", str(teacher), "--model_s", "resnet8", "--save_dir", str(tmp_path)])
    assert f"teacher resnet8: {last_row(teacher)['test_acc']:.2f}% on the test" in capfd.readouterr().out


# What predicts at test time

CHOICES = {"own": [], "teacher's": ["--th_inference"], "weight 1": ["--validation_th_weight", "1"],
           "mixture": ["--validation_th_weight", "0.3"]}


@pytest.fixture(scope="module")
def chosen(wide_dir, tmp_path_factory):
    """The runs of one command that differ in what predicts."""
    return {choice: student_run(wide_dir, "--distill", "kd+th", "--delta", "0.5", "--model_s", "resnet8", *args,
                                tmp_path_factory.mktemp("chosen")) for choice, args in CHOICES.items()}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_a_run_recorded_is_found_again(chosen, choice, scores):
    assert_recorded(scores(chosen[choice]), chosen[choice])


EVALUATED = {"own": ["--th_inference", "0"], "teacher's": ["--th_inference"],
             "weight 1": ["--validation_th_weight", "1"], "mixture": ["--validation_th_weight", "0.3"]}


@pytest.mark.parametrize("trained", ["own", "mixture"])
def test_evaluate_chooses_anew(chosen, trained, scores):
    """All that one training run can say."""
    for choice, args in EVALUATED.items():
        assert_recorded(scores(chosen[trained], *args), chosen[choice])


def test_evaluate_chooses_between_two_heads_alone(chosen, teacher_dir, wide_dir, tmp_path, command):
    simkd = student_run(teacher_dir, "--model_s", "resnet8", "--distill", "simkd+th", tmp_path / "simkd")
    kd = student_run(teacher_dir, "--model_s", "resnet8", tmp_path / "kd")
    untrained = student_run(wide_dir, "--model_s", "resnet8", "--distill", "kdth", "-b", "0", tmp_path / "untrained")
    for path, message, *args in (
            (teacher_dir, "is no run of METHOD+th", "--th_inference"),
            (kd, "is no run of METHOD+th", "--validation_th_weight", "0.5"),
            (published(tmp_path / "resnet8.pth", two_headed(create_model("resnet8", 10))), "is no run of METHOD+th",
             "--th_inference", "--dataset", "tiny"),
            (simkd, "predicts in its own way", "--th_inference"),
            (untrained, "leaves the adapter", "--th_inference"),
            (chosen["own"], "give one of them", "--th_inference", "1", "--validation_th_weight", "0.3"),
            (chosen["own"], "1.5 is above 1", "--validation_th_weight", "1.5")):
        status, out, err = command(evaluate, "--path", path, "--precision", "fp32", *args)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert message in err


def test_a_method_that_predicts_in_its_own_way_is_rebuilt(teacher_dir, tmp_path, scores):
    run = student_run(teacher_dir, "--model_s", "resnet14", "--distill", "simkd+th", tmp_path)
    assert_recorded(scores(run), run)
    assert_recorded(scores(run, "--th_inference", "0"), run)


def test_the_choice_changes_the_scores_and_not_the_training(chosen):
    rows = {choice: last_row(run) for choice, run in chosen.items()}
    assert len({row["train_loss"] for row in rows.values()}) == 1
    assert len({row["test_loss"] for row in rows.values()}) == 3
    assert rows["weight 1"]["test_loss"] == rows["teacher's"]["test_loss"]
    states = [read_checkpoint(run)["model"].values() for run in chosen.values()]
    assert all(same(state, states[0]) for state in states)


def test_a_student_with_the_teachers_head_is_the_next_teacher(chosen, tmp_path, capfd):
    run = chosen["teacher's"]
    train_student.main([*QUICK, "--path_t", str(run), "--model_s", "resnet8", "--copy_head", "--save_dir",
                        str(tmp_path)])
    assert f"teacher resnet8: {last_row(run)['test_acc']:.2f}% on the test images (its" in capfd.readouterr().out
    (student,) = (tmp_path / "students").iterdir()
    assert not torch.equal(head_of(student)[0], head_of(run)[0])  # it is not the head that did not predict
    sharing = train(train_teacher, "--model", "resnet14", "--path_th", run, tmp_path)
    assert same(head_of(sharing), head_of(student))


def test_what_cannot_predict_so(refused, chosen, teacher_dir):
    for script, args in ((train_student, ["--path_t"]), (train_teacher, ["--model", "resnet8", "--path_th"])):
        assert "does not predict by one classifier" in refused(script, *args, chosen["mixture"])
    teacher = ["--path_t", teacher_dir, "--skip_validation", "--model_s", "resnet8", "--th_inference", "1"]
    assert "give one of them" in refused(train_student, *teacher, "--distill", "kdth", "--validation_th_weight", "0.3")
    assert "simkd+th predicts in its own way" in refused(train_student, *teacher, "--distill", "simkd+th")
    assert "leaves the adapter" in refused(train_student, "--path_t", chosen["own"], "--skip_validation", "--distill",
                                           "kdth", "--model_s", "wrn_16_2", "-b", "0", "--th_inference")


# Stopped and started again

RESUMED = {
    "copied": [train_student, "--model_s", "resnet8", "--copy_head", "--path_t"],
    "SH-KD": [train_teacher, "--model", "resnet8", "--path_th"],
    "factor+th": [train_student, "--model_s", "resnet8", "--distill", "factor+th", "--init_epochs", "1", "--path_t"],
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_shared_head_behind_an_adapter_goes_on_to_the_same_bits(kind, wide_dir, tmp_path, monkeypatch):
    """Stopped twice: after three steps, of the first stage where there is one, and in the main one's second epoch."""
    script, *args = RESUMED[kind]

    def start(save):
        return train(script, *args, wide_dir, "--epochs", "2", *DECAY, save)

    with monkeypatch.context() as patch:
        stop_at(patch, Progress, "advance", 3, before=False, signal_number=signal.SIGTERM)
        with pytest.raises(SystemExit):
            start(tmp_path / "stopped")
    first_stage = STEPS * (kind == "factor+th")
    assert len(list(tmp_path.rglob("first_stage.pth"))) == bool(first_stage)
    with monkeypatch.context() as patch:
        stop_at(patch, Progress, "advance", first_stage + STEPS, before=False)
        with pytest.raises(Stop):
            start(tmp_path / "stopped")
    assert_same(start(tmp_path / "whole"), start(tmp_path / "stopped"))


# Every method beside a teacher's head

OF_ONE_HEAD = [name for name in methods if get_method(name).needs_teacher and not get_method(name).modifiers]


@pytest.mark.parametrize("name", OF_ONE_HEAD)
def test_every_method_learns_beside_a_teachers_head(teacher_dir, tmp_path, monkeypatch, name):
    """One step of the objective that the script builds, after no first stage."""
    built = []

    def one_step(objective, loaders, *rest):
        losses = objective.train()(next(iter(loaders["train"])))
        own = torch.autograd.grad(losses.terms["th"], list(objective.student.parameters()), retain_graph=True,
                                  allow_unused=True)
        losses.total.backward()
        built.append((objective, losses, own))

    monkeypatch.setattr(train_student, "pretrain", lambda *args: None)
    monkeypatch.setattr(train_student, "fit", one_step)
    train_student.main([*distilling(f"{name}+th", teacher_dir), "--save_dir", str(tmp_path)])
    (objective, losses, own), = built
    assert losses.total.isfinite()
    assert losses.terms["th"].item() > 0
    assert losses.total.item() == pytest.approx(sum(term.item() for term in losses.terms.values()), rel=1e-4)
    head = objective.modifiers["th"].head
    assert same([head.weight, head.bias], head_of(teacher_dir))
    assert all(not p.requires_grad and p.grad is None for p in head.parameters())  # none of an adapter, at equal widths
    gradients = {key: (p.grad, of_th) for (key, p), of_th in
                 zip(objective.student.named_parameters(), own, strict=True) if key not in HEAD}
    assert all(grad.isfinite().all() and grad.any() for grad, _ in gradients.values())
    assert all(of_th.any() for _, of_th in gradients.values())
    assert own[-2:] == (None, None)  # the student's own classifier
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert bool(objective.method.stages()) == (name in {"abound", "factor", "fsp"})


@pytest.mark.parametrize("name", ["abound", "crd", "simkd"])
def test_a_run_beside_a_teachers_head(teacher_dir, tmp_path, name):
    train_student.main([*distilling(f"{name}+th", teacher_dir), "--save_dir", str(tmp_path), "--name", "run"])
    run = tmp_path / "students" / "run"
    row = last_row(run)
    assert row["loss_th"] > 0
    assert row["train_loss"] == pytest.approx(sum(row[key] for key in row if key.startswith("loss_")), rel=1e-4)
    checkpoint = read_checkpoint(run)
    values = [*checkpoint["model"].values(), *checkpoint["method"].values(), *checkpoint["modifiers"].values()]
    assert all(torch.isfinite(value).all() for value in values)
    assert same([checkpoint["modifiers"][f"th.head.{key}"] for key in ("weight", "bias")], head_of(teacher_dir))
    assert (run / "first_stage.pth").exists() == (name == "abound")


@pytest.mark.parametrize("flag", ["--copy_head", "--do_init_s_from_th"])
def test_a_method_without_a_teacher_has_no_head_to_share(refused, flag):
    message = refused(train_student, "--distill", "dml", "--model_s", "resnet8", flag)
    assert flag in message
    assert "without a teacher" in message


def test_a_delta_of_0_is_noted(teacher_dir, tmp_path, command):
    args = [*QUICK, "--path_t", teacher_dir, "--skip_validation", "--model_s", "resnet8", "--save_dir", tmp_path]
    _, _, err = command(train_student, *args, "--distill", "kdth", "-b", "0")
    assert err.startswith("note: --delta is 0 for kdth")
    for name in ("kd", "kdth"):
        assert "--delta" not in command(train_student, *args, "--distill", name)[2]


def test_no_weight_at_all_is_refused(refused, teacher_dir):
    assert "no loss has a weight" in refused(train_student, "--path_t", teacher_dir, "--skip_validation", "--distill",
                                             "kdth", "-r", "0", "-a", "0", "-b", "0")


# Weights and names


def weights(*args):
    opt = student_options([*STUDENT, "--distill", *args])
    return opt.gamma, opt.alpha, opt.beta, opt.delta


@pytest.mark.parametrize(("args", "expected"), [
    ("kdth", (1, 1.5, 0, 0.02)),
    ("kdth -r 1 -a 1.5 -b 0.03", (1, 1.5, 0, 0.03)),
    ("kdth --beta 0.03 -d 2", (1, 2, 0, 0.03)),
    ("kdth --delta 0.03 --div 2", (1, 2, 0, 0.03)),
    ("kd+th", (0.1, 0.9, 0, 0.02)),
    ("kd+th -d 0.5 -b 3", (0.1, 0.5, 3, 0.02)),
    ("kd+th --delta 0.5 -d 2", (0.1, 2, 0, 0.5)),
    ("crdth", (0.9, 1, 0.8, 0.02)),
    ("crdth -r 0.9 -a 1 -b 0.7 -d 0.03", (0.9, 1, 0.7, 0.03)),
    ("kdeth -d 0.03", (1, 1, 0.02, 0.03)),
    ("kde+th -d 0.5 --delta 0.03", (1, 0.5, 0.02, 0.03)),
    ("crd+th -d 0.5", (1, 0.5, 0.8, 0.02)),
    ("simkd+th -c 0 -d 0 -b 1", (0, 0, 1, 0.02)),
    ("crd+th --delta 0 -b 0", (1, 0, 0, 0)),
    ("kd -d 0.5", (0.1, 0.5, 0, 0)),
    ("kde -d 0.5", (1, 0.5, 0.02, 0)),
    ("simkd -c 0 -d 0 -b 1", (0, 0, 1, 0)),
])
def test_what_d_and_beta_weigh(args, expected):
    assert weights(*args.split()) == expected


@pytest.mark.parametrize(("args", "message"), [
    ("crdth -d 1 --delta 1", "-d and --delta are the same weight for --distill crdth"),
    ("crd+th -d 1 -a 1", r"-d and --alpha are the same weight for --distill crd\+th"),
    ("kdth -b 1 --delta 1", "-b and --delta are the same weight for --distill kdth"),
    ("kdth -d 1 -a 1", "-d and --alpha are the same weight"),
    ("kd -d 1 --div 1", "-d and --alpha are the same weight"),
    ("kd --delta 1", r"--distill kd has none: use kd\+th"),
    ("crd --delta 0", r"--distill crd has none: use crd\+th"),
    ("kdth --delta -1", "-1 is below 0"),
    ("kdth --validation_th_weight 1.5", "1.5 is above 1"),
    ("kdth --th_inference 2", "--th_inference: invalid choice"),
    ("kdth --kdth_t 0", "0 is not above 0"),
])
def test_refused_weights(args, message):
    with pytest.raises(UsageError, match=message):
        weights(*args.split())


@pytest.mark.parametrize(("name", "message"), [
    ("crd+xx", "unknown modifier of a method 'xx': choose from ls, th"), ("crd+", "unknown modifier of a method ''"),
    ("+th", "unknown method ''"), ("+", "unknown method ''"), ("crdd+th", "unknown method 'crdd': did you mean crd"),
    ("dml+th", "has no teacher whose head"),
    ("kdth+th", "has +th already"), ("crd+th+th", "has +th already")])
def test_refused_names(refused, name, message):
    assert message in refused(train_student, *STUDENT, "--distill", name)


def test_names_of_runs():
    def named(*args):
        opt = student_options([*STUDENT, "--distill", *args])
        facts = {"data": {"name": "tiny"}, "inputs": {"teacher": "1a2b3c4d"}, "teacher": {"arch": "resnet8"}}
        return RunRecord("student", dict(opt), opt.given, facts).name()

    assert named("crd+th") == "S-resnet8_T-resnet8-1a2b3c_tiny_crd+th_r-1_a-0_b-0.8_d-0.02_trial-1"
    assert named("kdth", "-b", "0.02") == named("kdth", "--delta", "0.02") == named("kdth")
    assert named("kdth", "-b", "0.03") == named("kdth", "--delta", "0.03") != named("kdth")
    for args in (["--th_inference"], ["--validation_th_weight", "0.3"], ["--kdth_t", "2"], ["--copy_head"]):
        assert named("kdth", *args) != named("kdth")
    assert named("kdth", "--th_inference", "0", "--copy_head", "0") == named("kdth")


def test_kdth_is_kd_beside_the_teachers_head(teacher_dir, tmp_path):
    runs = [student_run(teacher_dir, "--model_s", "resnet8", "--distill", *args.split(), tmp_path / args[:4])
            for args in ("kdth -r 1 -a 1.5 -b 0.5", "kd+th -r 1 -a 1.5 --delta 0.5")]
    first, second = (read_checkpoint(run) for run in runs)
    assert last_row(runs[0])["loss_th"] == last_row(runs[1])["loss_th"] > 0
    for part in ("model", "method", "modifiers"):
        assert first[part].keys() == second[part].keys()
        assert same(first[part].values(), second[part].values())
    assert get_method("kd+th").weights != get_method("kdth").weights


# The published commands, from the READMEs of HeadSharingKD and SimKD

COMMANDS = {
    "HeadSharingKD, TH-KD": (
        "train_student.py --path_t /saved_models/resnet32x4_vanilla/ckpt_epoch_240.pth --distill kdth "
        "--model_s resnet8x4 -r 1 -a 1.5 -b 0.02 --trial 1", (1, 1.5, 0, 0.02)),
    "HeadSharingKD, TH-KD with CRD": (
        "train_student.py --path_t /saved_models/resnet32x4_vanilla/ckpt_epoch_240.pth --distill crdth "
        "--model_s resnet8x4 -r 0.9 -a 1 -b 0.8 -d 0.02 --trial 1", (0.9, 1, 0.8, 0.02)),
    "HeadSharingKD, SH-KD's teacher": (
        "train_teacher.py --model resnet32x4 --path_th /saved_models/resnet8x4_student.pth", None),
    "HeadSharingKD, SH-KD": (
        "train_student.py --path_t /saved_models/resnet32x4_SHKD.pth --distill crd --model_s resnet8x4 -r 1 -a 1.0 "
        "-b 0.8 --trial 1", (1, 1, 0.8, 0)),
    "SimKD's teacher": (
        "train_teacher.py --batch_size 64 --epochs 240 --dataset cifar100 --model resnet32x4 --learning_rate 0.05 "
        "--lr_decay_epochs 150,180,210 --weight_decay 5e-4 --trial 0 --gpu_id 0", None),
    "SimKD": (
        "train_student.py --path_t ./save/teachers/models/resnet32x4_vanilla/resnet32x4_best.pth --distill simkd "
        "--model_s resnet8x4 -c 0 -d 0 -b 1 --trial 0", (0, 0, 1, 0)),
}
MINUTE = ["--dataset", "minute", "--epochs", "1", "--batch_size", "8", "--image_size", "8", "--precision", "fp32"]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """A root directory with the files that the commands name: untrained, for ten classes."""
    root = tmp_path_factory.mktemp("downloads")
    teacher = create_model("resnet32x4", 10).state_dict()
    for path, state in (("saved_models/resnet32x4_vanilla/ckpt_epoch_240.pth", teacher),
                        ("saved_models/resnet8x4_student.pth", two_headed(create_model("resnet8x4", 10))),
                        ("saved_models/resnet32x4_SHKD.pth", teacher),
                        ("save/teachers/models/resnet32x4_vanilla/resnet32x4_best.pth", teacher)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        published(root / path, state)
    return root


def build_minute(*args):
    """Two steps of 8 images."""
    data = build_tiny(*args)
    train, test = data.train.subset(torch.arange(16)), data.test.subset(torch.arange(10))
    return dataclasses.replace(data, name="minute", train=train, val=test, test=test)


@pytest.mark.parametrize("paper", COMMANDS)
def test_published_commands(paper, downloads, command, tmp_path, monkeypatch):
    """As they are printed, but for the place of files, the data set and its schedule."""
    monkeypatch.setitem(dataset_dict, "minute", build_minute)
    text, expected = COMMANDS[paper]
    text = text.replace(" /saved_models", f" {downloads}/saved_models").replace(" ./save", f" {downloads}/save")
    script, *args = shlex.split(text)
    status, _, err = command({"train_student.py": train_student, "train_teacher.py": train_teacher}[script], *args,
                             *MINUTE, "--save_dir", tmp_path)
    assert status == 0, err
    (run,) = tmp_path.glob("*/*")
    options = recorded(run)
    if expected:
        assert tuple(options[name] for name in ("gamma", "alpha", "beta", "delta")) == expected
    assert read_checkpoint(run)["loader"]["epoch"] == 1
    assert last_row(run)["train_loss"] > 0
    if "--path_th" in args:
        student = read_checkpoint(args[-1])["model"]
        assert same(head_of(run), (student["model_s.fc.weight"], student["model_s.fc.bias"]))
        assert "_th-resnet8x4-" in run.name


@pytest.mark.parametrize("paper", COMMANDS)
def test_published_commands_parse_as_they_are(paper):
    """On the published data, at the published schedule."""
    text, expected = COMMANDS[paper]
    script, *args = shlex.split(text)
    opt = (student_options if script == "train_student.py" else teacher_options)(args)
    assert (opt.dataset, opt.epochs, opt.batch_size, opt.lr_decay_epochs) == ("cifar100", 240, 64, [150, 180, 210])
    if expected is None:
        name = RunRecord("teacher", dict(opt), opt.given, {"data": {"name": "cifar100"}}).name()
        assert name.startswith("resnet32x4_cifar100_")
    else:
        assert (opt.gamma, opt.alpha, opt.beta, opt.delta) == expected
