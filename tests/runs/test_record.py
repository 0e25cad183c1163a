"""A run's record: its name, whether another start is the same run, what groups runs in a table."""
import dataclasses
import json

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


def heads(*args):
    opt = heads_options(["--path_t", "teacher.pth", *args])
    return RunRecord("heads", dict(opt), opt.given, {"data": DATA, "inputs": {"teacher": "1a2b3c4d5e6f"}}, opt.roles)


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
    assert student("--distill", "crd+th", "--batch_size", "8", "--nce_k", "8").name() == \
        "S-resnet8x4_T-resnet32x4-1a2b3c_cifar100_crd+th_r-1_a-0_b-0.8_d-0.02_nce_k-8_batch_size-8_trial-1"
    assert [heads(*args).name() for args in ([], ["--head_type", "conv"], ["--name", "mine"])] == [
        "heads", "heads_conv", "mine"]
    assert teacher("--model", "torchvision/resnet18", "--trial", "a.b").name() == \
        "torchvision.resnet18_cifar100_trial-a.b"
    alone = student_options(["--distill", "dml", "--peers", "resnet8,resnet8"])
    facts = {"data": DATA}
    assert RunRecord("student", dict(alone), alone.given, facts, alone.roles).name() == \
        "S-resnet8_cifar100_dml_r-0.9_a-0_b-0.1_peers-resnet8+resnet8_trial-1"


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


@pytest.mark.parametrize(("args", "difference"), [
    (["-b", "3"], ("beta", 0, 3)), (["-a", "0"], ("alpha", 0.9, 0)), (["--kd_T", "2"], ("kd_T", 4, 2)),
    (["--model_s", "resnet8"], ("model_s", "resnet8x4", "resnet8")), (["--trial", "a"], ("trial", "1", "a")),
    (["--lr_decay_epochs", "10"], ("lr_decay_epochs", [150, 180, 210], [10])), (["--deterministic"],
                                                                              ("deterministic", False, True))])
def test_another_option_is_another_run(args, difference):
    assert difference in student(*args).differs(student())
    with pytest.raises(UsageError, match=f"run was begun with {difference[0]} = .*, not .*: pass --overwrite"):
        student(*args).check_same(student(), "run")


@pytest.mark.parametrize("args", [["--data_dir", "x"], ["--path_t", "elsewhere.pth"], ["--model_t", "resnet8x4"],
                                  ["--skip_validation"], ["--save_freq", "1"], ["--name", "mine"],
                                  ["--distill", "mhkd", "--path_heads", "x"]])
def test_places_and_display_do_not_count(args):
    plain = student(*args[:2]) if "mhkd" in args else student()
    assert student(*args).differs(plain) == []
    student(*args).check_same(plain, "run")
    assert "mine" in args or student(*args).name() == plain.name()
    assert student(*args).setting() == plain.setting()


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
    trials = [student("--lr_decay_epochs", ",".join(map(str, range(1, 90))), "--trial", trial).name() for trial in "12"]
    assert trials[0][:-1] == trials[1][:-1]
    assert len(teacher("--trial", "x" * 190).name()) <= 230


def test_what_is_not_known_yet_does_not_differ():
    """A sweep's record, from before the run starts, and an earlier version's, which had fewer options."""
    planned = dataclasses.replace(student(), facts={"data": {"name": "cifar100"}})
    assert planned.differs(student()) == []
    older = dataclasses.replace(student(), options={k: v for k, v in student().options.items() if k != "optimizer"})
    assert student("--optimizer", "adamw").differs(older) == []


def test_an_auto_that_is_not_resolved_yet_does_not_differ():
    """As in a sweep, which looks for a run's directory before it knows the device."""
    planned = student(resolved={})
    for known in (student(), student("--precision", "fp32", "--compile", "off")):
        assert planned.differs(known) == known.differs(planned) == []
    assert student("--precision", "bf16", resolved={}).differs(student()) == [("precision", "fp32", "bf16")]
    size = student(data={"name": "cifar100"})
    assert size.differs(student()) == []
    assert student("--image_size", "64", data={"name": "cifar100"}).differs(student()) == [("image_size", 32, 64)]


def test_other_images_are_refused():
    other = student(data=DATA | {"identity": "changed"})
    with pytest.raises(UsageError, match="run was begun on other images than data has now: pass --overwrite"):
        other.check_same(student(), "run")
    assert other.name() == student().name()


def test_what_auto_became_is_told():
    """A run begun where auto compiled, and resumed where it does not."""
    begun = student(resolved={"precision": "bf16", "compile": "on"})
    now = student(resolved={"precision": "bf16", "compile": "off"})
    with pytest.raises(UsageError, match="begun with compile = on, and --compile auto is off now: give --compile on"):
        now.check_same(begun, "run")
    spelled_out = student("--precision", "bf16", resolved={"precision": "bf16", "compile": "on"})
    spelled_out.check_same(begun, "run")
    now = student(resolved={"precision": "fp32", "compile": "on"})
    with pytest.raises(UsageError, match="and --precision auto is fp32 now: give --precision bf16 to go on, or --over"):
        now.check_same(begun, "run")
    given = student("--compile", "off", resolved={"precision": "bf16", "compile": "off"})
    with pytest.raises(UsageError, match="begun with compile = on, not off: pass --overwrite"):
        given.check_same(begun, "run")
    with pytest.raises(UsageError, match="begun with compile = off, not on: pass --overwrite"):
        spelled_out = student("--compile", "on", resolved={"precision": "bf16", "compile": "on"})
        spelled_out.check_same(student(resolved={"precision": "bf16", "compile": "off"}), "run")


def test_other_options_under_one_name_are_refused():
    with pytest.raises(UsageError, match=r"begun with batch_size = 64, not 32: pass --overwrite.* another --name$"):
        student("--name", "mine", "--batch_size", "32").check_same(student("--name", "mine"), "run")


def test_trials_are_of_one_setting_wherever_the_data_are():
    one, two = student("--data_dir", "a"), student("--data_dir", "b", "--trial", "2", "--save_dir", "x")
    assert one.setting() == two.setting()
    assert student("-b", "2").setting() != one.setting()
    assert student(teacher="aaaa").setting() != one.setting()
    assert student(resolved={"precision": "bf16", "compile": "off"}).setting() != one.setting()
    spelled_out = student("--precision", "fp32", "--learning_rate", "0.05", "--gpu_id", "0")
    assert spelled_out.setting() == one.setting()
    assert [run("--seed", "5").setting() == run().setting() for run in (student, teacher, heads)] == [True] * 3
    assert student("--distill", "kdth").setting() != student("--distill", "kd+th").setting()


def test_written_and_read_back(tmp_path):
    student().write(tmp_path, command=["x"])
    read = RunRecord.read(tmp_path)
    assert read == dataclasses.replace(student(), roles=read.roles)
    assert read.name() == student().name() and read.differs(student()) == [] and read.setting() == student().setting()
    assert all(read.role(key) is student().role(key) for key in student().options)
    assert set(json.loads((tmp_path / "options.json").read_text())) == {"kind", "options", "given", "facts", "roles",
                                                                        "command"}
    assert RunRecord.of_checkpoint({"record": student().as_dict()}).name() == student().name()
    assert RunRecord.of_checkpoint({"model": {}, "epoch": 240}) is None
    with pytest.raises(UsageError, match=r"has no options\.json"):
        RunRecord.read(tmp_path / "nowhere")
    (tmp_path / "options.json").write_text('{"kind": 1, "roles": []}')
    with pytest.raises(UsageError, match="is damaged"):
        RunRecord.read(tmp_path)


PLACES = {"data_dir", "save_dir", "num_workers", "gpu_id", "name"}
DISPLAY = {"overwrite", "save_freq", "print_freq"}


@pytest.mark.parametrize(("options", "inputs", "display"), [
    (lambda: teacher_options([]), {"path_th"}, DISPLAY),
    (lambda: student_options(STUDENT), {"path_t", "model_t", "path_heads"}, DISPLAY | {"skip_validation"}),
    (lambda: heads_options(["--path_t", "x"]), {"path_t", "model_t"}, DISPLAY | {"skip_validation"})],
    ids=["teacher", "student", "heads"])
def test_every_flag_has_a_role(options, inputs, display):
    """All flags but these identify a run: it would be resumed with another value otherwise."""
    opt = options()
    assert set(opt) <= set(opt.roles)
    for role, names in ((Role.PLACE, PLACES), (Role.INPUT, inputs), (Role.DISPLAY, display)):
        assert {name for name in opt if opt.roles[name] is role} == names
    assert not set(opt.given) & (PLACES | inputs | display)
