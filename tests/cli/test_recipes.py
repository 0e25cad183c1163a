"""Recipes: their values, what a flag given by hand does to them, where they are told."""
import pytest

import train_student
from cli.options import heads_options, student_options, teacher_options
from cli.recipes import METHOD_SETTINGS, RECIPES
from distiller_zoo import get_method
from errors import UsageError
from models import read_checkpoint
from runs.record import RunRecord
from tests.conftest import distilling

STUDENT = ["--path_t", "teacher.pth"]
WEIGHTS = ("gamma", "alpha", "beta", "kd_T")


def student(*args):
    return student_options([*STUDENT, *args])


def weights(opt):
    return tuple(getattr(opt, name) for name in WEIGHTS)


def train_heads_options(*args):
    """train_heads.py: the learning rate is known with the teacher's network."""
    return heads_options([*STUDENT, *args])


@pytest.mark.parametrize("options", [teacher_options, student, train_heads_options],
                         ids=["teacher", "student", "heads"])
@pytest.mark.parametrize(("name", "rate", "decay", "epochs", "decays", "batch_size", "weight_decay", "nesterov",
                          "padding"), [
    ("crd", None, 0.1, 240, [150, 180, 210], 64, 5e-4, 0, "constant"),
    ("dih", 0.1, 0.2, 200, [60, 120, 180], 64, 5e-4, 1, "reflect"),
    ("zoo", 0.1, 0.1, 164, [81, 122], 128, 1e-4, 0, "constant"),
])
def test_published_settings(options, name, rate, decay, epochs, decays, batch_size, weight_decay, nesterov, padding):
    opt = options(["--recipe", name]) if options is teacher_options else options("--recipe", name)
    if rate is None and options is not train_heads_options:  # the network's
        rate = 0.05
    assert (opt.learning_rate, opt.lr_decay_rate, opt.epochs, opt.lr_decay_epochs) == (rate, decay, epochs, decays)
    assert (opt.batch_size, opt.weight_decay, opt.momentum) == (batch_size, weight_decay, 0.9)
    assert (opt.nesterov, opt.padding) == (nesterov, padding)


@pytest.mark.parametrize(("method", "expected"), [
    ("kd", (0.9, 0.1, 0, 5)), ("hint", (0.9, 0.1, 100, 5)), ("crd", (1, 0.9, 0.8, 4)), ("mhkd", (0, 0, 1, 4)),
    ("dih", (0, 0, 1, 5)), ("attention", (1, 0, 1000, 5)), ("simkd", (0, 0, 1, 5)),
    ("kdth", (1, 1.5, 0, 5)), ("crdth", (0.9, 1, 0.8, 5)),  # HeadSharingKD's weights
])
def test_weights_of_dihs_methods(method, expected):
    assert weights(student("--recipe", "dih", "--distill", method)) == expected
    assert weights(student("--distill", method))[:3] == get_method(method).weights[:3]


def test_the_default_method_has_its_settings_too():
    assert dict(student("--recipe", "dih")) == dict(student("--recipe", "dih", "--distill", "kd"))
    assert weights(student("--recipe=dih")) == (0.9, 0.1, 0, 5)


def test_fitnets_are_two_stages_at_the_first_map():
    opt = student("--recipe", "dih", "--distill", "hint")
    assert (opt.hint_stage, opt.hint_layer, opt.init_epochs) == ("two", 1, 40)
    assert student("--recipe", "dih", "--distill", "kd").hint_stage == "joint"


def test_mutual_learning():
    opt = student_options(["--recipe", "dih", "--distill", "dml"])
    assert (opt.gamma, opt.alpha, opt.beta, opt.kd_T) == (0.9, 0, 0.1, 1)


@pytest.mark.parametrize(("recipe", "method"), [(recipe, method) for recipe, own in METHOD_SETTINGS.items()
                                                for method in own if get_method(method).needs_teacher])
def test_a_teachers_head_changes_nothing_but_delta(recipe, method):
    ours, alone = (student("--recipe", recipe, "--distill", name) for name in (f"{method}+th", method))
    assert {key for key in ours if ours[key] != alone[key]} == {"distill", "delta"}
    assert set(ours.given) - {"distill"} == set(alone.given) - {"distill"}


@pytest.mark.parametrize("flags", [["-d", "0.5"], ["-a", "0.5"], ["--div", "0.5"]])
@pytest.mark.parametrize("method", ["kd", "hint"])
def test_weights_by_hand(flags, method):
    assert student("--recipe", "dih", "--distill", method, *flags).alpha == 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_every_flag_overrides(name):
    given = {"epochs": 7, "batch_size": 9, "learning_rate": 0.3, "lr_decay_epochs": [2, 5], "lr_decay_rate": 0.7,
             "weight_decay": 0.25, "momentum": 0.5, "nesterov": 1, "padding": "reflect", "kd_T": 3.0, "gamma": 2.0}
    text = {key: ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in given.items()}
    opt = student("--recipe", name, *(word for key, value in text.items() for word in (f"--{key}", value)))
    assert {key: getattr(opt, key) for key in given} == given


def test_what_is_not_the_recipes_is_in_the_name():
    def name(*args):
        opt = student(*args)
        facts = {"data": {"name": "cifar100"}, "inputs": {"teacher": "1a2b3c4d5e6f"}, "teacher": {"arch": "resnet20"}}
        return RunRecord("student", dict(opt), opt.given, facts, opt.roles).name()

    assert name("--recipe", "dih", "--kd_T", "4") != name("--recipe", "dih")
    assert name("--recipe", "dih", "--kd_T", "5") == name("--recipe", "dih") != name()
    assert name("--recipe", "dih", "--epochs", "200") == name("--recipe", "dih")
    assert name("--recipe", "crd") == name()


@pytest.mark.parametrize("options", [teacher_options, student_options, heads_options])
def test_help_prints_every_recipe(options, capsys):
    with pytest.raises(SystemExit):
        options(["--help"])
    text = capsys.readouterr().out
    assert "dih  epochs 200, batch_size 64, learning_rate 0.1, decays 60+120+180, lr_decay_rate 0.2" in text
    for name, own in METHOD_SETTINGS.items():
        assert f"  {name} " in text
        assert all(f"       {method}: " in text for method in own)
    assert "       hint: gamma 0.9, alpha 0.1, hint_stage two, hint_layer 1, init_epochs 40" in text


def test_a_run_records_its_recipe(teacher_dir, tmp_path):
    recipe = ["--recipe", "dih", "--name", "run"]
    train_student.main([*distilling("kd", teacher_dir), *recipe, "--save_dir", str(tmp_path)])
    options = read_checkpoint(tmp_path / "students" / "run")["record"]["options"]
    assert (options["recipe"], options["alpha"], options["kd_T"], options["learning_rate"]) == ("dih", 0.1, 5, 0.1)
    assert (options["padding"], options["nesterov"]) == ("reflect", 1)


@pytest.mark.parametrize(("args", "message"), [
    (["--recipe", "dhi"], "unknown recipe 'dhi': did you mean dih"),
    (["--recipe", "dih", "--momentum", "0"], "--nesterov needs a momentum: add --nesterov 0"),
    (["--nesterov", "1", "--momentum", "0"], "--nesterov needs a momentum"),
])
def test_refusals(args, message):
    for options in (teacher_options, lambda args: student(*args)):
        with pytest.raises(UsageError, match=message):
            options(args)


def test_no_momentum_without_nesterov():
    assert teacher_options(["--recipe", "dih", "--momentum", "0", "--nesterov", "0"]).momentum == 0
