"""Flags: published spellings and meanings, defaults, refusals."""
import pytest

from distiller_zoo import methods
from errors import UsageError
from helper.options import evaluate_options, student_options, teacher_options

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
    args = [*(STUDENT if methods[name].needs_teacher else []), "--distill", name]
    opt = student_options(args)
    assert (opt.gamma, opt.alpha, opt.beta) == methods[name].weights[:3]
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
])
def test_refusals(args, message):
    with pytest.raises(UsageError, match=message):
        student_options(args)


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
