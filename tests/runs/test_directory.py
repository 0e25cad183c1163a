"""A run's name and directory."""
import fcntl
import json

import pytest

from cli.options import student_options, teacher_options
from errors import UsageError
from models import name_from_path
from runs.directory import Run, student_name, teacher_name

STUDENT = ["--path_t", "teacher.pth", "--model_s", "resnet8x4"]
TEACHER = {"teacher": {"arch": "resnet32x4", "hash": "1a2b3c4d5e6f"}}


def named(*args):
    return student_name(student_options([*STUDENT, *args]), "cifar100", TEACHER)


def test_names():
    assert teacher_name(teacher_options(["--model", "resnet20"]), "cifar100") == "resnet20_cifar100_trial-0"
    assert named() == "S-resnet8x4_T-resnet32x4-1a2b3c_cifar100_kd_r-0.1_a-0.9_b-0_trial-1"


@pytest.mark.parametrize("args", [["--kd_T", "2"], ["--epochs", "30"], ["--lr_decay_epochs", "10,20"], ["-b", "3"],
                                  ["--trial", "2"], ["--seed", "9"], ["--precision", "fp32"], ["--holdout", "5"],
                                  ["--batch_size", "128"], ["--learning_rate", "0.01"], ["--deterministic"]])
def test_whatever_distinguishes_a_run_is_in_its_name(args):
    assert named(*args) != named()
    assert not set(named(*args)) & set(':/\\ *?"<>|')


@pytest.mark.parametrize("args", [["--gpu_id", "0"], ["--save_dir", "x"], ["--num_workers", "7"], ["--print_freq", "9"],
                                  ["-r", "0.1"], ["--epochs", "240"], ["--overwrite"]])
def test_what_does_not_is_not(args):
    assert named(*args) == named()


def test_another_teacher_is_another_run():
    opt = student_options(STUDENT)
    assert student_name(opt, "cifar100", {"teacher": TEACHER["teacher"] | {"hash": "aaaaaaaaaaaa"}}) != named()


def test_a_students_directory_tells_its_architecture():
    assert name_from_path(f"save/students/{named('--kd_T', '2')}/last.pth") == "resnet8x4"


def test_long_names_are_cut_and_stay_different():
    names = {named("--data_dir", "d", "--lr_decay_epochs", ",".join(map(str, range(1, n)))) for n in (90, 91)}
    assert len(names) == 2
    assert all(len(name) <= 200 and name.endswith("_trial-1") for name in names)


def test_a_run_in_another_process_is_not_touched(tmp_path):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            Run(tmp_path / "run", teacher_options([]), {}).__enter__()


def test_other_options_under_one_name_are_refused(tmp_path):
    opt = teacher_options(["--name", "mine", "--batch_size", "32"])
    run = Run(tmp_path, opt, {})
    (tmp_path / "options.json").write_text(json.dumps(run.options | {"batch_size": 64}))
    (tmp_path / "last.pth").touch()
    with pytest.raises(UsageError, match=r"begun with batch_size = 64, not 32: pass --overwrite.* another --name$"):
        run.__enter__()
