"""A run's record: its name, whether another start is the same run, what groups runs in a table."""
import dataclasses

import pytest

from cli.options import heads_options, student_options, teacher_options
from errors import UsageError
from flags import Role
from models import name_from_path
from runs.record import RunRecord

STUDENT = ["--path_t", "teacher.pth", "--model_s", "resnet8x4"]
DATA = {"name": "cifar100", "identity": "", "image_size": 32, "num_classes": 100, "n_data": 50000, "mean": [0.5] * 3}


def student(*args, teacher="1a2b3c4d5e6f", **facts):
    opt = student_options([*STUDENT, *args])
    facts = {"data": DATA, "inputs": {"teacher": teacher}, "teacher": {"arch": "resnet32x4"},
             "resolved": {"precision": "fp32", "compile": "off"}} | facts
    return RunRecord("student", dict(opt), opt.given, facts, opt.roles)


def teacher(*args, **facts):
    opt = teacher_options(list(args))
    return RunRecord("teacher", dict(opt), opt.given, {"data": DATA} | facts, opt.roles)


def test_names():
    assert teacher("--model", "resnet20").name() == "resnet20_cifar100_trial-0"
    assert teacher("--model", "resnet20", inputs={"th": "resnet8-1a2b3c"}).name() == \
        "resnet20_cifar100_th-resnet8-1a2b3c_trial-0"
    assert student().name() == "S-resnet8x4_T-resnet32x4-1a2b3c_cifar100_kd_r-0.1_a-0.9_b-0_trial-1"
    assert student("--name", "mine").name() == "mine"
    assert student("--distill", "dih", inputs={"teacher": "1a2b3c", "heads": "abc"}).name() == \
        "S-resnet8x4_T-resnet32x4-1a2b3c_cifar100_dih_r-0_a-0_b-1_heads-abc_trial-1"


@pytest.mark.parametrize("args", [["--kd_T", "2"], ["--epochs", "30"], ["--lr_decay_epochs", "10,20"], ["-b", "3"],
                                  ["--trial", "2"], ["--seed", "9"], ["--precision", "fp32"], ["--holdout", "5"],
                                  ["--batch_size", "128"], ["--learning_rate", "0.01"], ["--deterministic"],
                                  ["--optimizer", "adamw"], ["--ema_decay", "0.9"], ["--lr_schedule", "cosine"]])
def test_whatever_distinguishes_a_run_is_in_its_name(args):
    assert student(*args).name() != student().name()
    assert not set(student(*args).name()) & set(':/\\ *?"<>|')


@pytest.mark.parametrize("args", [["--gpu_id", "0"], ["--save_dir", "x"], ["--num_workers", "7"], ["--print_freq", "9"],
                                  ["-r", "0.1"], ["--epochs", "240"], ["--overwrite"], ["--kd_T", "4"],
                                  ["--learning_rate", "0.05"], ["--lr_decay_epochs", "150,180,210"]])
def test_what_does_not_is_not(args):
    assert student(*args).name() == student().name()
    assert student(*args).differs(student()) == []


def test_another_teacher_is_another_run():
    other = student(teacher="aaaaaaaaaaaa")
    assert other.name() != student().name()
    assert other.differs(student()) == [("teacher", "1a2b3c4d5e6f", "aaaaaaaaaaaa")]


def test_a_students_directory_tells_its_architecture():
    assert name_from_path(f"save/students/{student('--kd_T', '2').name()}/last.pth") == "resnet8x4"


def test_long_names_are_cut_and_stay_different():
    names = {student("--lr_decay_epochs", ",".join(map(str, range(1, n)))).name() for n in (90, 91)}
    assert len(names) == 2
    assert all(len(name) <= 200 and name.endswith("_trial-1") for name in names)


def test_what_is_not_known_yet_does_not_differ():
    """A sweep's record, from before the run starts, and an earlier version's, which had fewer options."""
    planned = dataclasses.replace(student(), facts={"data": {"name": "cifar100"}})
    assert planned.differs(student()) == []
    older = dataclasses.replace(student(), options={k: v for k, v in student().options.items() if k != "optimizer"})
    assert student("--optimizer", "adamw").differs(older) == []


def test_other_images_are_refused():
    other = student(data=DATA | {"identity": "changed"})
    with pytest.raises(UsageError, match="was begun on other images than data has now"):
        other.check_same(student(), "run")


def test_what_auto_became_is_told():
    """A run begun where auto compiled, and resumed where it does not."""
    begun = student(resolved={"precision": "bf16", "compile": "on"})
    now = student(resolved={"precision": "bf16", "compile": "off"})
    with pytest.raises(UsageError, match="begun with compile = on, and --compile auto is off now: give --compile on"):
        now.check_same(begun, "run")
    spelled_out = student("--precision", "bf16", resolved={"precision": "bf16", "compile": "on"})
    spelled_out.check_same(begun, "run")


def test_other_options_under_one_name_are_refused():
    with pytest.raises(UsageError, match=r"begun with batch_size = 64, not 32: pass --overwrite.* another --name$"):
        student("--name", "mine", "--batch_size", "32").check_same(student("--name", "mine"), "run")


def test_trials_are_of_one_setting_wherever_the_data_are():
    one, two = student("--data_dir", "a"), student("--data_dir", "b", "--trial", "2", "--save_dir", "x")
    assert one.setting() == two.setting()
    assert student("-b", "2").setting() != one.setting()
    assert student(teacher="aaaa").setting() != one.setting()


def test_written_and_read_back(tmp_path):
    student().write(tmp_path, command=["x"])
    read = RunRecord.read(tmp_path)
    assert read.name() == student().name() and read.differs(student()) == [] and read.setting() == student().setting()
    (tmp_path / "options.json").write_text('{"kind": 1, "roles": []}')
    with pytest.raises(UsageError, match="is damaged"):
        RunRecord.read(tmp_path)


def test_every_flag_has_a_role():
    for opt in (teacher_options([]), student_options(STUDENT), heads_options(["--path_t", "x"])):
        assert set(opt) <= set(opt.roles)
        assert {opt.roles[key] for key in ("data_dir", "save_dir", "gpu_id")} == {Role.PLACE}
