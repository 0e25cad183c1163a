"""scripts/sweep.py: two real runs on digits; else stand-ins for the entry scripts, as it is the sweep that matters."""
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from runs import sweep as running
from scripts import sweep
from tests.conftest import TINY

FAST = ["--dataset", "digits", "--image_size", "16", "--batch_size", "256", "--epochs", "1", "--precision", "fp32"]

# Reads --model, --model_s and a few more flags; leaves the files of a run. vgg8 fails, vgg13 waits for SIGTERM and
# stops, vgg16 waits and does not.
STAND_IN = """
import json, os, pathlib, signal, sys, time

args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
kind, model = ("teachers", args["--model"]) if "--model" in args else ("students", args["--model_s"])
directory = pathlib.Path(args["--save_dir"], kind, args["--name"])
directory.mkdir(parents=True, exist_ok=True)
start = time.time()
if model in ("vgg13", "vgg16"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143) if model == "vgg13" else None)
    (directory / "ready").touch()
    while True:
        time.sleep(0.01)
time.sleep(0.2)
if model == "vgg8":
    print("on the way")
    print("error: vgg8 broke", file=sys.stderr)
    sys.exit("what another process writes to the same log")
options = {"model": model} if kind == "teachers" else {"model_s": model, "distill": args["--distill"],
                                                       "teacher": {"arch": "teacher"}}
(directory / "options.json").write_text(json.dumps(options | {"parameters": 7, "data_dir": "data"}))
(directory / "metrics.jsonl").write_text('{"epoch": 1, "test_acc": 50.0, "seconds": 0.5}\\n')
facts = {"name": args["--name"], "gpu": args.get("--gpu_id"), "threads": os.environ["OMP_NUM_THREADS"],
         "start": start, "end": time.time()}
with open(pathlib.Path(args["--save_dir"], "order"), "a") as file:
    file.write(json.dumps(facts) + "\\n")
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Entry scripts that take a fifth of a second."""
    for script in sweep.SCRIPTS:
        (tmp_path / script).write_text(STAND_IN)
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.setattr(running, "POLL", 0.02)


@pytest.fixture
def sweeping(command, tmp_path):
    """sweeping(flags, *common) -> (exit status, lines of standard output, standard error). flags: as in a shell."""

    def call(flags, *common):
        status, out, err = command(sweep, *shlex.split(flags), "--", *FAST, "--save_dir", tmp_path / "save", *common)
        return status, out.splitlines(), err

    return call


def rows_of_table(lines):
    return [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]


def interrupt_when(monkeypatch, ready, number=signal.SIGINT, times=1):
    """Send this process a signal, `times` in all, in those turns of the sweep's loop in which ready() is true."""
    real, sent = time.sleep, []

    def sleep(seconds):
        real(seconds)
        if len(sent) < times and ready():
            sent.append(number)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(running.time, "sleep", sleep)


def test_real_runs_interrupted_and_resumed(sweeping, tmp_path, monkeypatch):
    """Stopped in the teacher's first epoch; then it goes on and the student follows; then nothing is left to start."""
    grid = "--pairs resnet8:resnet8 --methods alone,kd"
    pictures = f" --plot {tmp_path}/plots/curves.png --bars {tmp_path}/bars.png"
    more = ("--print_freq", "1", "--batch_size", "64")
    log = "save/teachers/resnet8_digits_*_trial-0.log"
    with monkeypatch.context() as patch:
        interrupt_when(patch, lambda: any("epoch 1/1 [" in file.read_text() for file in tmp_path.glob(log)))
        status, lines, err = sweeping(grid, *more)
    assert status == 130
    assert "stopped by signal 2 (0 done, 0 failed, 1 stopped, 1 waiting): the same command goes on" in err
    assert "stopping: waiting for 1 runs to save" in lines[1]
    first, = tmp_path.glob("save/teachers/*/last.pth")
    assert "stopped by signal 15 and saved" in Path(f"{first.parent}.log").read_text()

    status, lines, err = sweeping(grid + pictures, *more)
    assert (status, err) == (0, "")
    assert rows_of_table(lines) == ["resnet8", "kd: resnet8 -> resnet8"]
    assert ": going on after epoch " in Path(f"{first.parent}.log").read_text()
    assert (tmp_path / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "bars.png").exists()

    monkeypatch.setattr(subprocess, "Popen", None)
    status, again, err = sweeping(grid, *more)
    assert (status, err) == (0, "")
    assert rows_of_table(again) == rows_of_table(lines)
    assert sum("done" in line and line.endswith("%  before") for line in again) == 2


def test_help(command):
    status, out, _ = command(sweep, "--help")
    assert (status, "default: [" in out) == (0, False)
    assert "--dry_run prints the runs as --list reads them" in out


def test_dry_run_is_a_list(sweeping, command, tmp_path):
    status, lines, _ = sweeping("--pairs resnet20:resnet8,wrn_16_2:resnet8 --trials 2 --dry_run --methods "
                                "\"alone,kd -a 0.5 , dml --peers 'resnet8,resnet20',srrl+th\"")
    assert status == 0
    assert "14 runs, 0 of them finished" in lines[0]
    assert [line.split()[0] for line in lines[1:6]] == ["train_teacher.py"] * 3 + ["train_student.py"] * 2
    teacher = tmp_path / "save" / "teachers" / ("resnet20_digits_epochs-1_batch_size-256_image_size-16_precision-fp32_"
                                                "trial-0")
    assert f"-a 0.5 --path_t {teacher} --model_s resnet8 --distill kd --trial 0" in lines[4]
    assert not (tmp_path / "save").exists()

    file = tmp_path / "runs.txt"
    file.write_text("\n".join(lines) + "\n\n  # a remark\n")
    status, out, _ = command(sweep, "--list", file, "--dry-run")
    assert (status, out.splitlines()) == (0, lines)
    planned = [sweep.Plan(), sweep.Plan()]
    sweep.add_list(planned[0], Namespace(list=file), [])
    file.write_text("\n".join(line.removeprefix("train_student.py ") for line in lines))
    sweep.add_list(planned[1], Namespace(list=file), [])
    names = [[job.directory for job in plan.jobs] for plan in planned]
    assert names[0] == names[1]
    assert len(set(names[0])) == 14


def test_what_waits_for_what(tmp_path):
    """Heads and what learns from them; a student that teaches."""
    save = tmp_path / "save"
    (tmp_path / "runs.txt").write_text(f"""
        python train_teacher.py --model resnet20 --name t
        train_heads.py --path_t {save}/teachers/t
        train_heads.py --path_t {save}/teachers/t/best.pth --name other   # beside it
        --path_t {save}/teachers/t --distill dih --name a
        --path_t {save}/teachers/t --distill dih --path_heads {save}/teachers/t/other.pth --name b
        --path_t {save}/students/a/last.pth --distill kd --epochs 9
        --distill dml
        --path_t {save}/teachers/t/best.pth --distill mhkd --name d
    """)
    plan = sweep.Plan()
    sweep.add_list(plan, Namespace(list=tmp_path / "runs.txt"), ["--save_dir", str(save), "--epochs", "3"])
    t, heads, other, a, _, c, alone, _ = plan.jobs
    assert [heads.directory, other.directory] == [t.directory / "heads", t.directory / "other"]
    assert [job.needs for job in plan.jobs] == [[], [t], [t], [t, heads, other], [t, other], [a], [], [t, heads, other]]
    assert (a.options.epochs, c.options.epochs) == (3, 9)
    assert c.directory.name.startswith("S-resnet8_T-resnet8-")
    assert alone.directory.name.startswith("S-resnet8_cifar100_dml_")


def test_devices_and_order(stand_ins, sweeping, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    status, lines, err = sweeping("--pairs resnet20:resnet8 --methods kd,crd,alone --trials 3 --gpus 0,1 --jobs 2")
    assert (status, err) == (0, "")
    assert rows_of_table(lines) == ["resnet20", "kd: teacher -> resnet8", "crd: teacher -> resnet8", "resnet8"]
    ran = [json.loads(line) for line in (tmp_path / "save" / "order").read_text().splitlines()]
    assert len(ran) == 10
    assert {run["threads"] for run in ran} == {"3"}
    teacher, = (run for run in ran if run["name"].startswith("resnet20"))
    assert all(run["start"] > teacher["end"] for run in ran if run["name"].startswith("S-"))
    for run in ran:
        together = [other for other in ran if other["start"] <= run["start"] < other["end"]]
        assert max([other["gpu"] for other in together].count(gpu) for gpu in "01") <= 2
    assert {run["gpu"] for run in ran} == {"0", "1"}


def test_a_failure_stops_only_what_needs_it(stand_ins, sweeping, tmp_path):
    status, lines, err = sweeping("--pairs vgg8:resnet8,resnet20:resnet8 --methods kd,alone --jobs 3")
    assert status == 1
    assert rows_of_table(lines) == ["resnet20", "resnet8", "kd: teacher -> resnet8"]
    assert "2 of 5 runs failed" in err
    assert "exit status 1: error: vgg8 broke (" in err
    assert "not started: it needs " in err
    assert sum("failed" in line and "error: vgg8 broke" in line for line in lines) == 1


@pytest.mark.parametrize(("model", "number", "times", "status", "killed"), [
    ("vgg13", signal.SIGTERM, 1, 143, False), ("vgg16", signal.SIGINT, 2, 130, True)])
def test_signals(stand_ins, sweeping, tmp_path, monkeypatch, model, number, times, status, killed):
    """The second Ctrl-C kills what does not stop."""
    interrupt_when(monkeypatch, lambda: list(tmp_path.glob("save/teachers/*/ready")), number, times)
    code, lines, err = sweeping(f"--pairs resnet8:{model} --methods 'alone, alone --seed 3'")
    assert code == status
    assert f"stopped by signal {number:d} (0 done, 0 failed, 1 stopped, 1 waiting)" in err
    assert not any(line.startswith("|") for line in lines)


@pytest.mark.parametrize(("flags", "message"), [
    ("", "nothing to run: give --pairs and --methods, or --list"),
    ("--pairs resnet20:resnet8", "nothing to run"),
    ("--pairs resnet20 --methods kd", "'resnet20' is not TEACHER:STUDENT"),
    ("--pairs resnet20:resnet9 --methods kd", "unknown model 'resnet9': did you mean"),
    ("--pairs resnet20:resnet8 --methods kd,crdd", "unknown method 'crdd': did you mean crd"),
    ("--pairs resnet20:resnet8 --methods ,", "nothing to run"),
    ("--pairs resnet20:resnet8 --methods \"kd 'a\"", "no closing quotation"),
    ("--pairs resnet20:resnet8 --methods 'kd --hint_layr 2'", "resnet20:resnet8 kd --hint_layr 2: unknown flag"),
    ("--pairs resnet20:resnet8 --methods 'alone -a 0.5'", "alone -a 0.5: unknown flag '-a'"),
    ("--pairs resnet20:resnet8 --methods 'kd --trial 5'", "leave out --trial"),
    ("--pairs resnet20:resnet8 --methods kd --teacher_flags=--overwrite", "leave out --overwrite"),
    ("--pairs resnet20:resnet8 --methods kd --distill_flags=--skip", "unknown flag '--skip'"),
    ("--pairs resnet20:resnet8 --methods kd --trials 0", "0 is below 1"),
    ("--pairs resnet20:resnet8 --methods kd --gpus 99", "unknown device '99'"),
    ("--pairs resnet20:resnet8 --methods kd --plot curves", "curves is no picture"),
    ("--pairs TEACHER/..:resnet8 --methods kd", "no checkpoint in "),
    ("--pairs /nope/x:resnet8 --methods kd", "there is no checkpoint /nope/x"),
    ("--pairs resnet20:resnet8 --methods dih", "dih learns from heads trained on the teacher, which are not there: give"),
    ("--pairs resnet20:resnet8 --methods kd --dataset digits", "(flags of the runs stand behind --)"),
    ("--pairs TEACHER:resnet9 --methods kd", "unknown model 'resnet9'"),
    ("--list nowhere", "nowhere: No such file"),
    ("--list RUNS --trials 2", "--list names every run"),
    ("--list RUNS --distill_flags=--skip_validation", "--list names every run"),
    ("--list RUNS", "runs.txt:3: unknown method 'kdd'"),
])
def test_bad_input(sweeping, tmp_path, teacher_dir, flags, message):
    (tmp_path / "runs.txt").write_text(f"# two runs\n--path_t {teacher_dir}\n--path_t {teacher_dir} --distill kdd\n")
    status, lines, err = sweeping(flags.replace("RUNS", f"{tmp_path}/runs.txt").replace("TEACHER", str(teacher_dir)))
    assert (status, lines) == (2, [])
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "save").exists()


@pytest.mark.parametrize(("flag", "message"), [
    ("--plain_teacher", "unknown flag '--plain_teacher'"), ("--plain_teacher", "--distill_flags are for what is"),
    ("--dry_run", "leave out --dry_run: it stands before --")])
def test_flags_on_the_wrong_side(sweeping, flag, message):
    status, _, err = sweeping("--pairs resnet20:resnet8 --methods kd", flag)
    assert status == 2 and message in err


def test_bad_data(sweeping, tmp_path):
    grid = "--pairs resnet20:resnet8 --methods kd"
    status, _, err = sweeping(grid, "--dataset", "digit")
    assert (status, err) == (2, "error: unknown data set 'digit': did you mean digits?\n")
    status, _, err = sweeping(grid, "--dataset", "folder", "--data_dir", tmp_path / "nowhere")
    assert status == 2 and "nowhere" in err
    assert not (tmp_path / "save" / "teachers").exists()


@pytest.mark.parametrize(("line", "message"), [
    ("--path_t TEACHER --name a --alpha 0.5", "is for RUNS:1 already: give another --name"),
    ("train_teacher.py --model resnet8 --name resnet8_vanilla --save_dir SAVE", "was begun with epochs = 1, not 240"),
    ("--path_t save/none --model_t resnet8", "no checkpoint at save/none"),
    ("--path_t TEACHER --gpu_id 1", "leave out --gpu_id"),
    ("--path_t 'TEACHER", "no closing quotation"),
    ("train_head.py --path_t TEACHER", "unknown script 'train_head.py': did you mean train_heads.py"),
])
def test_bad_lists(command, tmp_path, teacher_dir, line, message):
    file = tmp_path / "runs.txt"
    file.write_text(f"--path_t TEACHER --name a\n{line}\n".replace("TEACHER", str(teacher_dir))
                    .replace("SAVE", str(teacher_dir.parent.parent)))
    status, out, err = command(sweep, "--list", file, "--", "--save_dir", tmp_path / "save", "--dataset", "digits")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {file}:2: ") and message.replace("RUNS", str(file)) in err


def test_a_teacher_that_is_there(sweeping, teacher_dir):
    status, lines, _ = sweeping(f"--pairs {teacher_dir}:resnet14 --methods kd --dry_run")
    assert status == 0
    assert len(lines) == 2
    assert f"--path_t {teacher_dir} --model_s resnet14" in lines[1]


def test_tuned_heads_are_finished_with_their_file(teacher_dir, tmp_path):
    """A kill may come between the last epoch and the writing of the heads."""
    shutil.copytree(teacher_dir, tmp_path / "t")
    plan = sweep.Plan()
    args = [*TINY, "--path_t", str(tmp_path / "t"), "--skip_validation", "--learning_rate", "0.001"]
    job = plan.add("train_heads.py", args, "here")
    assert job.is_finished()
    (tmp_path / "t" / "heads.pth").unlink()
    assert not job.is_finished()


def test_shares_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [running.threads_each(n) for n in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [running.threads_each(n) for n in (1, 3, 8)] == [2, 2, 1]
