"""Flags: published spellings and meanings, defaults, refusals; options that stay as they were parsed."""
import ast
import copy
import pickle
from pathlib import Path

import pytest

from cli.options import evaluate_options, heads_options, student_options, teacher_options
from distiller_zoo import get_method, methods
from errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cli", "helper", "runs", "tasks", "distiller_zoo", "crd", "models", "dataset")
STUDENT = ["--path_t", "teacher.pth"]


def test_repdistillers_defaults():
    opt = teacher_options([])
    assert (opt.model, opt.dataset, opt.epochs, opt.batch_size) == ("resnet110", "cifar100", 240, 64)
    assert (opt.lr_decay_epochs, opt.lr_decay_rate) == ([150, 180, 210], 0.1)
    assert (opt.weight_decay, opt.momentum, opt.trial) == (5e-4, 0.9, "0")


def test_decays_keep_their_proportion():
    assert teacher_options(["--epochs", "24"]).lr_decay_epochs == [15, 18, 21]
    assert teacher_options(["--epochs", "1"]).lr_decay_epochs == [1]
    assert teacher_options(["--epochs", "24", "--lr_decay_epochs", "4,20"]).lr_decay_epochs == [4, 20]


def test_hyphen_and_underscore_are_one_flag():
    opt = student_options(["--path-t", "a-b.pth", "--lr-decay-epochs=10,20", "--model-s", "resnet14"])
    assert (opt.path_t, opt.lr_decay_epochs, opt.model_s) == ("a-b.pth", [10, 20], "resnet14")


@pytest.mark.parametrize("flags", [["-r", "2", "-a", "3", "-b", "4"], ["-c", "2", "-d", "3", "-b", "4"],
                                   ["--cls", "2", "--div", "3", "--beta", "4"], ["--gamma", "2", "-d", "3", "-b", "4"]])
def test_weights_have_repdistillers_and_simkds_names(flags):
    opt = student_options([*STUDENT, *flags])
    assert (opt.gamma, opt.alpha, opt.beta) == (2, 3, 4)


@pytest.mark.parametrize("name", methods)
def test_weights_not_given_are_the_methods(name):
    args = [*(STUDENT if get_method(name).needs_teacher else []), "--distill", name]
    opt = student_options(args)
    assert (opt.gamma, opt.alpha, opt.beta) == get_method(name).weights[:3]
    assert student_options([*args, "-a", "0"]).alpha == 0


def test_the_seed_follows_the_trial():
    assert [teacher_options(args).seed for args in ([], ["-t", "3"], ["--trial", "x"], ["-t", "3", "--seed", "7"])] \
        == [0, 3, 0, 7]


@pytest.mark.parametrize(("args", "message"), [
    (["--path_t", "t", "--distil", "kd"], r"unknown flag '--distil': did you mean --distill"),
    (["--path_t", "t", "--path-x", "kd"], r"unknown flag '--path_x': did you mean .*--path_t"),
    (["--path_t", "t", "kd"], r"unexpected argument 'kd'"),
    (["--path_t", "t", "--distill", "kdd"], r"unknown method 'kdd': did you mean kd"),
    (["--path_t", "t", "--model_s", "resnet8x5"], r"unknown model 'resnet8x5': did you mean .*resnet8x4"),
    (["--path_t", "t", "-d", "1", "-a", "1"], r"-d and --alpha are the same weight"),
    (["--path_t", "t", "--epochs", "0"], r"--epochs: 0 is below 1"),
    (["--path_t", "t", "--learning_rate", "nan"], r"--learning_rate: 'nan' is not a finite number"),
    (["--path_t", "t", "--kd_T", "0"], r"--kd_T: 0 is not above 0"),
    (["--path_t", "t", "--lr_decay_epochs", "9,3"], r"'9,3' is not a rising list"),
    (["--path_t", "t", "--name", "a/b"], r"'a/b' is not letters"),
    ([], r"--path_t is missing"),
    (["--path_t", "t", "--delta", "1"], r"--delta weighs the teacher's head, and --distill kd has none: use kd\+th"),
    (["--path_t", "t", "--th_inference"], r"--th_inference does nothing for --distill kd: .* kdth, .*, METHOD\+th\)"),
    (["--path_t", "t", "--validation_th_weight", "0.3"], r"--validation_th_weight does nothing for --distill kd"),
    (["--path_t", "t", "--kdth_t", "2"], r"--kdth_t does nothing for --distill kd"),
    (["--path_t", "t", "--th_adapter", "none"], r"--th_adapter does nothing for --distill kd.* with --copy_head\)"),
    (["--path_t", "t", "--path_heads", "x"], r"--path_heads does nothing for --distill kd: .* dih, mhkd, tofd\)"),
    (["--path_t", "t", "--head_stages", "1"], r"--head_stages does nothing"),
    (["--path_t", "t", "--peers", "resnet8"], r"--peers does nothing for --distill kd: leave it out \(it is for dml\)"),
    (["--path_t", "t", "--distill", "crd+th", "-s", "2"], r"--soft does nothing for --distill crd\+th"),
    (["--distill", "dml", "--th_inference", "1"], r"--th_inference does nothing for --distill dml"),
])
def test_refusals(args, message):
    with pytest.raises(UsageError, match=message):
        student_options(args)


@pytest.mark.parametrize("args", [
    ["--th_inference", "0"],  # as it is anyway
    ["--copy_head", "--th_adapter", "none"], ["--distill", "kde", "--th_adapter", "none"],
    ["--distill", "kd+th", "--th_adapter", "none", "--kdth_t", "2", "--th_inference"],
    ["--distill", "hint+th", "--hint_layer", "1"], ["--distill", "fsp", "--init_epochs", "3"],
    ["--distill", "crd", "--feat_dim", "64"], ["--distill", "correlation", "--feat_dim", "64"],
])
def test_flags_of_the_method(args):
    assert student_options([*STUDENT, *args])


@pytest.mark.parametrize("name", methods)
def test_every_flag_of_a_method_is_taken_by_it(name):
    """The check of flags goes by the names that the parser makes of them."""
    args = [*(STUDENT if get_method(name).needs_teacher else []), "--distill", name]
    for option in get_method(name).options:
        value = {"path_heads": "x", "head_stages": "1", "peers": "resnet8"}.get(option.flags[-1][2:])
        choices = option.settings.get("choices")
        value = value or str(choices[-1] if choices else 1)
        student_options([*args, option.flags[-1], value])


def test_an_adapter_without_a_head_to_share():
    with pytest.raises(UsageError, match="--th_adapter is for the classifier of --path_th"):
        teacher_options(["--th_adapter", "none"])
    assert teacher_options(["--th_adapter", "none", "--path_th", "x"]).th_adapter == "none"


def test_evaluate_needs_a_checkpoint():
    with pytest.raises(UsageError, match="--path is missing"):
        evaluate_options([])


@pytest.mark.parametrize("options", [teacher_options, student_options, evaluate_options])
def test_help_is_grouped_and_shows_defaults(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        options(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    for group in ("network", "data:", "machine:"):
        assert group in text
    assert "(default: auto)" in text
    assert "(default: None)" not in text


def test_help_lists_every_method_with_its_weights(capsys):
    with pytest.raises(SystemExit):
        student_options(["--help"])
    text = capsys.readouterr().out
    for name, method in methods.items():
        assert f"  {name:12} -r {method.weights.gamma:g} -a {method.weights.alpha:g}" in text


def test_the_learning_rate_is_the_networks():
    assert [student_options([*STUDENT, "--model_s", name]).learning_rate for name in ("resnet8", "MobileNetV2")] == [
        0.05, 0.01]
    assert [teacher_options(["--model", name]).learning_rate for name in ("resnet8", "ShuffleV1")] == [0.05, 0.01]
    assert student_options([*STUDENT, "--model_s", "MobileNetV2", "--recipe", "dih"]).learning_rate == 0.1
    opt = student_options([*STUDENT, "--model_s", "MobileNetV2", "--learning_rate", "0.05"])
    assert (opt.learning_rate, opt.given) == (0.05, ("model_s", "learning_rate"))
    assert heads_options(STUDENT).learning_rate is None  # the teacher's network is not known yet


def test_a_weight_has_one_name():
    opt = student_options([*STUDENT, "--distill", "kdth", "-b", "0.5", "-d", "2"])
    assert (opt.alpha, opt.beta, opt.delta, opt.given) == (2, 0, 0.5, ("distill", "alpha", "delta"))
    assert "d" not in opt
    opt = student_options([*STUDENT, "--distill", "mhkd", "-a", "0.3"])
    assert (opt.alpha, opt.mhkd_alpha, set(opt.given)) == (0, 0.3, {"distill", "mhkd_alpha"})


def test_what_is_given_has_the_order_of_the_flags():
    args = [["--batch_size", "8"], ["--epochs", "3"], ["--model_s", "vgg8"], ["--trial", "x"], ["-a", "0.5"]]
    given = {student_options([*STUDENT, *(word for arg in order for word in arg)]).given
             for order in (args, reversed(args))}
    assert given == {("model_s", "alpha", "epochs", "batch_size", "trial")}


def test_help_of_a_method_that_is_not_there():
    for args in (["--help", "--distill", "kdd"], ["--distill=kd+xx", "-h"], ["--help", "--distill"]):
        with pytest.raises(UsageError, match=r"unknown m|expected one argument"):
            student_options(args)


def test_help_shows_the_flags_of_the_method_alone(capsys):
    shown = {}
    for name, args in ((None, []), ("hint", ["--distill", "hint"]), ("crd+th", ["--path_t", "t", "--distill=crd+th"])):
        with pytest.raises(SystemExit):
            student_options(["--help", *args])
        shown[name] = capsys.readouterr().out
    assert not any(flag in shown[None] for flag in ("--hint_layer", "--nce_k", "--kdth_t"))
    assert "--hint_layer" in shown["hint"] and "--nce_k" not in shown["hint"]
    assert "--nce_k" in shown["crd+th"] and "--kdth_t" in shown["crd+th"] and "--hint_layer" not in shown["crd+th"]


@pytest.mark.parametrize("options", [teacher_options, lambda args: student_options([*STUDENT, *args]),
                                     lambda args: heads_options([*STUDENT, *args])],
                         ids=["teacher", "student", "heads"])
def test_options_are_read_only(options):
    opt = options(["--epochs", "3"])
    for name in ("epochs", "given", "roles", "_values", "new"):
        with pytest.raises(AttributeError, match="read-only"):
            setattr(opt, name, 4)
    with pytest.raises(TypeError):
        opt["epochs"] = 4
    with pytest.raises(AttributeError):
        del opt.epochs
    with pytest.raises(AttributeError, match="there is no option epoch"):
        opt.epoch  # noqa: B018
    other = opt.but(epochs=4, new=5)
    assert (other.epochs, other["epochs"], other.new, other.given) == (4, 4, 5, opt.given)
    assert other.roles == opt.roles
    assert (opt.epochs, opt["epochs"], dict(opt)["epochs"], "new" in opt) == (3, 3, 3, False)


def test_options_are_copied_and_sent():
    opt = student_options([*STUDENT, "--epochs", "3"])
    for other in (copy.copy(opt), copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert (dict(other), other.given, other.roles) == (dict(opt), opt.given, opt.roles)


@pytest.mark.parametrize("args", [["--learning_rate", "0.05"], ["--lr_decay_epochs", "150,180,210"], ["--kd_T", "4"],
                                  ["--trial", "1"], ["--seed", "1"], ["-a", "0.9"], ["--lr_schedule", "step"]])
def test_a_default_that_is_spelled_out_is_not_given(args):
    given = set(student_options([*STUDENT, *args]).given)
    assert not given


@pytest.mark.parametrize("args", [["--distill", "kd+ls"], ["--distill", "crd+ls+th"], ["--distill", "kdth+ls"]])
def test_modifiers_stack(args):
    for name in (args[1], "+".join([args[1].split("+")[0], *reversed(args[1].split("+")[1:])])):
        assert student_options([*STUDENT, "--distill", name]).distill == args[1]


def test_nothing_writes_to_the_options():
    """A walk over the syntax of every file: no statement assigns to, or deletes, an attribute of `opt`."""
    written = []
    for file in [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text())):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                    and node.func.id in ("setattr", "delattr")):
                target = node.args[0]
            elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
                target = node.value
            else:
                continue
            if isinstance(target, ast.Name) and target.id in ("opt", "options"):
                written.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert written == []
