"""scripts/sweep.py: two real runs on digits; else stand-ins for the entry scripts, as it is the sweep that matters."""
import fcntl
import io
import json
import os
import runpy
import shlex
import shutil
import signal
import sys
import time
import traceback
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from runs import sweep as running
from scripts import sweep
from tests.conftest import TINY

SWEEP = Path(sweep.__file__)
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


# A run of --epochs epochs of 0.1 s, which goes on after those that are there. Needs the lock, as a real run does.
LOCKING = """
import fcntl, json, os, pathlib, sys, time

args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
directory = pathlib.Path(args["--save_dir"], "teachers", args["--name"])
directory.mkdir(parents=True, exist_ok=True)
lock = open(directory / ".lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print(f"error: {directory} is being trained by another process: wait for it", file=sys.stderr)
    sys.exit(2)
(directory / "options.json").write_text(json.dumps({"model": args["--model"], "parameters": 7, "data_dir": "data"}))
(directory / "pid").write_text(str(os.getpid()))
metrics = directory / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
print(f"going on after epoch {done}", flush=True)
for epoch in range(done, int(args["--epochs"])):
    time.sleep(0.1)
    with open(metrics, "a") as file:
        file.write(json.dumps({"epoch": epoch + 1, "test_acc": 50.0, "seconds": 0.1}) + "\\n")
"""


def fork_script(script, args, stdin, stdout, stderr, environment=()):
    """Execute an entry script in a fork of this process, which has imported PyTorch already. Returns its process id.

    stdin, stdout, stderr: file descriptors. environment: {variable: value} besides ours.
    """
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        for source, target in ((stdin, 0), (stdout, 1), (stderr, 2)):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - until the process ends, as the two below
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
        os.environ.update(environment)
        sys.argv = [str(script), *args]
        runpy.run_path(str(script), run_name="__main__")
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Forked:
    """In place of subprocess.Popen in helper/sweep.py: a start costs no import of PyTorch, which takes seconds."""

    def __init__(self, command, stdout, env, **settings):
        with open(os.devnull) as nothing:
            self.pid = fork_script(command[1], command[2:], nothing.fileno(), stdout.fileno(), stdout.fileno(), env)
        self.code = None

    def poll(self, flags=os.WNOHANG):
        if self.code is None:
            pid, status = os.waitpid(self.pid, flags)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self):
        return self.poll(0)

    def terminate(self):
        os.kill(self.pid, signal.SIGTERM)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def imported(teacher_dir):
    """This process has trained, and so imported what takes seconds: PyTorch's parts, TensorBoard, scikit-learn."""
    import matplotlib.pyplot  # noqa: F401


@pytest.fixture
def forked(imported, monkeypatch):
    """The runs of a sweep are forks of the process that it runs in."""
    monkeypatch.setattr(running, "subprocess", Namespace(Popen=Forked, DEVNULL=None, STDOUT=None))


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


def test_real_runs_interrupted_and_resumed(forked, sweeping, tmp_path, monkeypatch):
    """Stopped in the teacher's first epoch; then it goes on and the student follows; then nothing is left to start."""
    grid = "--pairs resnet8:resnet8 --methods alone,kd --gpus cpu"
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

    monkeypatch.setattr(running, "subprocess", None)
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


def test_labels(command, tmp_path, monkeypatch):
    """A label is the place of what its line makes, a directory or a file of heads; --dry_run prints the places."""
    save = tmp_path / "save"
    text = """
        t: train_teacher.py --model resnet20 --name t
        h: train_heads.py --path_t @t --name flat
        train_student.py --path_t @t --distill dih --path_heads=@h --name a
        again: train_teacher.py --model resnet20 --name t    # one run may have two labels
        --path_t @again --distill kd --name b
    """
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    status, out, err = command(sweep, "--list", "-", "--dry_run", "--", "--save_dir", save)
    assert (status, err) == (0, "")
    common, t = f"--save_dir {save}", f"{save}/teachers/t"
    assert out.splitlines()[1:] == [
        f"train_teacher.py {common} --model resnet20 --name t",
        f"train_heads.py {common} --path_t {t} --name flat",
        f"train_student.py {common} --path_t {t} --distill dih --path_heads={t}/flat.pth --name a",
        f"train_student.py {common} --path_t {t} --distill kd --name b"]


@contextmanager
def workers(tmp_path, epochs, *shards, jobs=1):
    """Sweeps in processes of their own over one list of four teachers: yields their process ids, and ends them."""
    file = tmp_path / "runs.txt"
    file.write_text("".join(f"train_teacher.py --model resnet8 --trial {i} --name t{i}\n" for i in range(4)))
    args = ["--list", file, "--jobs", jobs, "--gpus", "cpu"]
    pids = []
    for number, shard in enumerate(shards):
        with open(os.devnull) as nothing, open(tmp_path / f"worker{number}", "w") as out:
            words = [*args, *(["--shard", shard] if shard else []), "--", *FAST, "--epochs", epochs, "--save_dir",
                     tmp_path / "save"]
            pids.append(fork_script(SWEEP, list(map(str, words)), nothing.fileno(), out.fileno(), out.fileno()))
    try:
        yield pids
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):  # it has been waited for
                pass


def end_of(pid, seconds=60):
    """The exit status of a process that ends within so many seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs after {seconds} s")


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture
def locking(stand_ins, tmp_path, monkeypatch):
    """Entry scripts that lock their directory; sweeps that look often, and are not patient."""
    (tmp_path / "train_teacher.py").write_text(LOCKING)
    monkeypatch.setattr(running, "LOOK", 0.05)
    monkeypatch.setattr(running, "PATIENCE", 0.5)
    return tmp_path / "save" / "teachers"


def starts(teachers):
    """{run: the epochs after which it was begun or gone on with}"""
    return {file.stem: [int(line.split()[-1]) for line in file.read_text().splitlines() if line.startswith("going on")]
            for file in sorted(teachers.glob("*.log"))}


def epochs_done(teachers, run):
    file = teachers / run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_workers_share_the_runs(locking, tmp_path, monkeypatch):
    """Each begins with its own; every run is started once, and both end with the table over all."""
    monkeypatch.setattr(running, "PATIENCE", 5.0)
    with workers(tmp_path, 5, "1/2", "2/2") as pids:
        assert [end_of(pid) for pid in pids] == [0, 0]
    assert starts(locking) == {f"t{i}": [0] for i in range(4)}
    for i in (0, 1):
        text = (tmp_path / f"worker{i}").read_text()
        first = next(line for line in text.splitlines() if "running" in line)
        assert f"  t{i}  " in first + "  "
        assert "| resnet8 | 5 | 4 |" in text


@pytest.mark.parametrize("with_run", [True, False])
def test_a_killed_worker(locking, tmp_path, with_run):
    """The other one finishes its run: by going on with it, if that was killed too, else by waiting for it."""
    with workers(tmp_path, 12, "1/2", "2/2") as (first, second):
        wait_for(lambda: epochs_done(locking, "t0") >= 3)
        os.kill(first, signal.SIGKILL)
        if with_run:
            os.kill(int((locking / "t0" / "pid").read_text()), signal.SIGKILL)
        assert end_of(second) == 0
    begun = starts(locking)
    assert begun["t0"][0] == 0 and len(begun["t0"]) == 1 + with_run
    assert all(3 <= epoch < 12 for epoch in begun["t0"][1:])
    assert [epochs_done(locking, f"t{i}") for i in range(4)] == [12] * 4
    assert [begun[f"t{i}"] for i in (1, 2, 3)] == [[0]] * 3
    assert "| resnet8 | 12 | 4 |" in (tmp_path / "worker1").read_text()


def test_a_second_sweep_waits_for_what_a_killed_one_left_running(locking, tmp_path):
    with workers(tmp_path, 15, "") as (first,):
        wait_for(lambda: epochs_done(locking, "t0") >= 2)
        os.kill(first, signal.SIGKILL)
    with workers(tmp_path, 15, "", jobs=4) as (second,):
        assert end_of(second) == 0
    assert starts(locking) == {f"t{i}": [0] for i in range(4)}
    lines = (tmp_path / "worker0").read_text().splitlines()
    assert any("elsewhere" in line and "  t0" in line and "another process trains it" in line for line in lines)
    assert any("done" in line and "  t0" in line and line.endswith("elsewhere") for line in lines)


def test_a_run_that_another_process_claims_between_look_and_start(locking, tmp_path, monkeypatch):
    """It is no failure, unless it happens again and again: on a disk without locks."""
    monkeypatch.setattr(running, "is_locked", lambda directory: False)
    monkeypatch.setattr(running, "MOST_REFUSALS", 2)
    (locking / "t0").mkdir(parents=True)
    with open(locking / "t0" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with workers(tmp_path, 1, "", jobs=4) as (pid,):
            assert end_of(pid) == 1
    lines = (tmp_path / "worker0").read_text().splitlines()
    assert sum("waiting" in line and "another process was faster" in line for line in lines) == 2
    assert "1 of 4 runs failed" in "".join(lines)


def test_is_locked(tmp_path):
    assert not running.is_locked(tmp_path / "nowhere")
    assert not running.is_locked(tmp_path) and not list(tmp_path.iterdir())
    with open(tmp_path / ".lock", "w") as lock:
        assert not running.is_locked(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert running.is_locked(tmp_path)
    assert not running.is_locked(tmp_path)


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
    *((f"--pairs resnet20:resnet8 --methods kd --shard {text}", f"--shard: '{text}' is not I/N")
      for text in ("2", "0/2", "3/2", "a/b")),
    ("--pairs TEACHER/..:resnet8 --methods kd", "no checkpoint in "),
    ("--pairs /nope/x:resnet8 --methods kd", "there is no checkpoint /nope/x"),
    ("--pairs resnet20:resnet8 --methods dih", "dih learns from heads trained on the teacher, which are not there"),
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
    ("--path_t @t", "@t: no line above begins with 't:'"),
    ("x: --path_t TEACHER --name b\nx: --path_t TEACHER --name c", "x is the label of RUNS:2 already"),
    ("train_head.py --path_t TEACHER", "unknown script 'train_head.py': did you mean train_heads.py"),
])
def test_bad_lists(command, tmp_path, teacher_dir, line, message):
    file = tmp_path / "runs.txt"
    file.write_text(f"--path_t TEACHER --name a\n{line}\n".replace("TEACHER", str(teacher_dir))
                    .replace("SAVE", str(teacher_dir.parent.parent)))
    status, out, err = command(sweep, "--list", file, "--", "--save_dir", tmp_path / "save", "--dataset", "digits")
    assert (status, out) == (2, "")
    assert err.startswith((f"error: {file}:2: ", f"error: {file}:3: ")) and message.replace("RUNS", str(file)) in err


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
