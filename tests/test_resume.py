"""Every method trains, and a run that was stopped anywhere and started again ends in the bits of one that was not."""
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_heads
import train_student
import train_teacher
from distiller_zoo import get_method, methods
from errors import UsageError
from helper import fit
from helper.progress import Progress
from models import create_model, load_model, read_checkpoint
from models.probe import weights_hash
from runs import directory as run
from runs.record import RunRecord
from tests.conftest import STEPS, TINY, distilling, recorded

ROOT = Path(__file__).resolve().parent.parent
RUN = [*TINY, "--epochs", "3", "--name", "run", "--num_workers", "0", "--save_freq", "1"]
TIMES = {"seconds", "images_per_second", "save_dir", "path", "path_t"}


def arguments(kind, save, teacher_dir, *more):
    """Script module, arguments and run directory of a short run: of "teacher", "heads", "student", or a method."""
    run = [*RUN, "--save_dir", str(save)]
    if kind == "teacher":
        return train_teacher, [*run, "--model", "resnet8", *more], save / "teachers" / "run"
    if kind == "heads":
        teacher = save / "teacher"
        teacher.mkdir(exist_ok=True)
        shutil.copy(teacher_dir / "last.pth", teacher)
        return train_heads, [*run, "--path_t", str(teacher), "--learning_rate", "0.001", *more], teacher / "run"
    args = distilling("kd" if kind == "student" else kind, teacher_dir)
    return train_student, [*args, *run, *more], save / "students" / "run"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, teacher_dir):
    """uninterrupted(kind, *more): directory of the run that nothing stopped, made once per module."""
    done = {}

    def get(kind, *more):
        key = (kind, *more)
        if key not in done:
            script, args, directory = arguments(kind, tmp_path_factory.mktemp(kind), teacher_dir, *more)
            script.main(args)
            done[key] = directory
        return done[key]

    return get


def assert_same(one, two):
    """Equal checkpoints and metrics, to the bit, but for times and places."""
    names = {file.name for file in one.glob("*.pth")}
    assert names == {file.name for file in two.glob("*.pth")}
    for name in names - {"first_stage.pth"}:
        assert_equal(read_checkpoint(one / name), read_checkpoint(two / name), name)
    assert_equal(rows(one), rows(two), "metrics.jsonl")
    assert events(one) == events(two)


def assert_equal(a, b, where):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - TIMES:
            assert_equal(a[key], b[key], f"{where}: {key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def events(directory):
    """{(part, tag): [(epoch, value), ...]} of all TensorBoard scalars that do not measure time.

    TensorBoard reads the files of a run in the order of their names: second, host, process, and a counter that is not
    padded, so that of two files of one process and one second the 10th comes before the 9th. Runs of users are
    processes of their own.
    """
    found = {}
    for part in (".", "first_stage"):
        if (directory / part).is_dir():
            for file in (directory / part).glob("events.out.tfevents.*"):
                start, counter = file.name.rsplit(".", 1)
                file.rename(file.with_name(f"{start}.{int(counter):06}"))
            log = EventAccumulator(str(directory / part)).Reload()
            for tag in set(log.Tags()["scalars"]) - TIMES:
                found[part, tag] = [(event.step, event.value) for event in log.Scalars(tag)]
    return found


class Stop(Exception):
    """Stands for a kill: nothing of the process runs after it."""


def stop_at(monkeypatch, owner, name, count, *, before, signal_number=None):
    """Stop (or send a signal to) the process at the count-th call of owner.name, before or after it."""
    real, calls = getattr(owner, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        result = None if before and len(calls) == count else real(*args, **kwargs)
        if len(calls) == count:
            if signal_number is None:
                raise Stop
            os.kill(os.getpid(), signal_number)
            result = real(*args, **kwargs) if before else result
        return result

    monkeypatch.setattr(owner, name, wrapper)


KILLS = {
    "after the first epoch": (run.Run, "finish_epoch", 1, False),
    "before the first checkpoint": (run.Run, "finish_epoch", 1, True),
    "in the middle of an epoch": (Progress, "advance", STEPS + 3, False),
    "between best.pth and last.pth": (run, "save_checkpoint", 2, True),
    "between checkpoint and log": (run, "save_checkpoint", 2, False),
}


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("moment", KILLS)
def test_killed(kind, moment, tmp_path, monkeypatch, uninterrupted, teacher_dir):
    script, args, directory = arguments(kind, tmp_path, teacher_dir)
    owner, name, count, before = KILLS[moment]
    with monkeypatch.context() as patch:
        stop_at(patch, owner, name, count, before=before)
        with pytest.raises(Stop):
            script.main(args)
    script.main(args)
    assert_same(uninterrupted(kind), directory)


SIGNALS = {
    "in the first step": (Progress, "advance", 1, False),
    "in the middle of an epoch": (Progress, "advance", STEPS + 3, False),
    "in the last step of an epoch": (Progress, "advance", 2 * STEPS, False),
    "during an evaluation": (fit, "evaluate", 2, True),
}


@pytest.mark.parametrize("loader", ["device", "torch"])
@pytest.mark.parametrize("moment", SIGNALS)
def test_terminated(moment, loader, tmp_path, monkeypatch, uninterrupted, teacher_dir, capsys):
    more = ("--loader", loader)
    script, args, directory = arguments("student", tmp_path, teacher_dir, *more)
    owner, name, count, before = SIGNALS[moment]
    with monkeypatch.context() as patch:
        stop_at(patch, owner, name, count, before=before, signal_number=signal.SIGTERM)
        with pytest.raises(SystemExit) as stopped:
            script.main(args)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "stopped by signal 15 and saved" in capsys.readouterr().err
    assert (directory / "last.pth").exists()
    script.main(args)
    assert_same(uninterrupted("student", *more), directory)


def watch(patch):
    """{"before", "after"}: digits of the weights of train_student's student and teacher (None without one) as its first
    stage begins, and at its end. Filled by the next run."""
    seen, pretrain, fit = {}, train_student.pretrain, train_student.fit

    def note(moment, objective):
        seen[moment] = [network and weights_hash(network) for network in (objective.student, objective.teacher)]

    def watched_pretrain(objective, *rest):
        note("before", objective)
        pretrain(objective, *rest)

    def watched_fit(objective, *rest):
        fit(objective, *rest)
        note("after", objective)

    patch.setattr(train_student, "pretrain", watched_pretrain)
    patch.setattr(train_student, "fit", watched_fit)
    return seen


def check_training(name, directory, seen, teacher_dir):
    """All methods start from the same student, learn, and leave the teacher as it was."""
    torch.manual_seed(1)  # of trial 1
    (student, teacher), (trained, teacher_after) = seen["before"], seen["after"]
    assert student == weights_hash(create_model("resnet8", 10)) != trained
    assert teacher == teacher_after
    assert (teacher is not None) == get_method(name).needs_teacher
    if teacher is not None:
        assert recorded(directory)["teacher"]["hash"] == weights_hash(load_model(teacher_dir))
    assert [row["train_loss"] > 0 for row in rows(directory)] == [True, True]
    checkpoint = read_checkpoint(directory)
    values = [value for part in ("model", "method", "modifiers") for value in checkpoint[part].values()]
    assert all(value.isfinite().all() for value in values)


@pytest.mark.parametrize("name", methods)
def test_every_method_trains_and_goes_on(name, tmp_path, monkeypatch, teacher_dir):
    """Not stopped, and stopped twice: in its first stage if it has one, and in the middle of the second epoch of the
    main one."""
    script, args, whole = arguments(name, tmp_path / "whole", teacher_dir, "--epochs", "2")
    with monkeypatch.context() as patch:
        seen = watch(patch)
        script.main(args)
    check_training(name, whole, seen, teacher_dir)
    script, args, directory = arguments(name, tmp_path, teacher_dir, "--epochs", "2")
    first_stage = 0
    with monkeypatch.context() as patch:
        stop_at(patch, Progress, "advance", 3, before=False, signal_number=signal.SIGTERM)
        with pytest.raises(SystemExit):
            script.main(args)
        first_stage = STEPS * (directory / "first_stage.pth").exists()
    with monkeypatch.context() as patch:
        stop_at(patch, Progress, "advance", first_stage + STEPS, before=False)
        with pytest.raises(Stop):
            script.main(args)
    script.main(args)
    assert_same(whole, directory)


def test_heads_go_on(tmp_path, monkeypatch, uninterrupted, teacher_dir):
    """Stopped in the middle of the second epoch, when the best heads of the first are known."""
    script, args, directory = arguments("heads", tmp_path, teacher_dir)
    with monkeypatch.context() as patch:
        stop_at(patch, Progress, "advance", STEPS + 3, before=False)
        with pytest.raises(Stop):
            script.main(args)
    assert not directory.with_suffix(".pth").exists()
    script.main(args)
    whole = uninterrupted("heads")
    assert_same(whole, directory)
    assert_equal(read_checkpoint(whole.with_suffix(".pth")), read_checkpoint(directory.with_suffix(".pth")), "heads")


@pytest.mark.slow
def test_killed_by_the_system(tmp_path, uninterrupted, teacher_dir):
    """A real process, a real SIGKILL as soon as the first epoch is logged, and the same command in this one."""
    more = ("--epochs", "9", "--save_freq", "0")
    script, args, directory = arguments("teacher", tmp_path, teacher_dir, *more)
    code = "import sys, tests.conftest, train_teacher; train_teacher.main(sys.argv[1:])"  # with the data set "tiny"
    with subprocess.Popen([sys.executable, "-c", code, *args], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/9"):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert len(rows(directory)) < 9
    script.main(args)
    assert_same(uninterrupted("teacher", *more), directory)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_with_workers(tmp_path):
    """What Slurm and a terminal do: the loader's processes get the signal too. Saved within a second of the step."""
    save = str(tmp_path)
    command = [sys.executable, "train_teacher.py", "--model", "resnet8", "--dataset", "digits", "--epochs", "50",
               "--loader", "torch", "--num_workers", "2", "--save_dir", save, "--name", "run", "--print_freq", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if line.startswith("epoch 1/50 [3/"):
                os.killpg(process.pid, signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert "stopped by signal 15 and saved" in rest
    assert rest.count("epoch 1/50 [") <= 2
    assert read_checkpoint(tmp_path / "teachers" / "run" / "last.pth")["loader"]["step"] >= 3


def test_a_finished_run_is_not_trained_again(uninterrupted, monkeypatch, teacher_dir, capsys):
    directory = uninterrupted("teacher")
    script, args, _ = arguments("teacher", directory.parent.parent, teacher_dir)
    monkeypatch.setattr(fit, "train_epoch", None)
    before = (directory / "last.pth").read_bytes()
    script.main(args)
    assert (directory / "last.pth").read_bytes() == before
    assert "all 3 epochs were done before" in capsys.readouterr().out


def test_what_auto_became_on_another_machine(uninterrupted, tmp_path, teacher_dir):
    """A run begun where `auto` compiled is not resumed where it does not, and its refusal says how to."""
    directory = shutil.copytree(uninterrupted("teacher"), tmp_path / "teachers" / "run")
    script, args, _ = arguments("teacher", tmp_path, teacher_dir)
    record = RunRecord.read(directory)
    record.facts["resolved"]["compile"] = "on"
    record.write(directory)
    with pytest.raises(UsageError, match="begun with compile = on, and --compile auto is off now: give --compile on"):
        script.main(args)
    record.facts["resolved"]["compile"] = "off"
    record.write(directory)
    script.main([*args, "--compile", "off"])  # spelled out


def test_overwrite_starts_anew(tmp_path, teacher_dir, uninterrupted):
    script, args, directory = arguments("teacher", tmp_path, teacher_dir)
    script.main([*args, "--seed", "5"])
    script.main([*args, "--overwrite"])
    assert_equal(rows(uninterrupted("teacher")), rows(directory), "metrics")
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1
