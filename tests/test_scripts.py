"""The scripts of README, as a user runs them: from another directory, twice."""
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from cli.options import student_options
from dataset import dataset_dict
from distiller_zoo import methods
from errors import UsageError
from scripts import published, sweep
from tests.conftest import build_tiny
from tests.test_sweep import fork_script, forked, imported  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parent.parent


def bash(script, cwd, *args, **environment):
    return subprocess.run(["bash", str(ROOT / "scripts" / script), *args], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHON": sys.executable} | environment)


# Stands for an interpreter: asks the process that listens at SOCKET to run the script in a fork.
FORKING = f"""#!{sys.executable} -SE
import json, os, socket, sys
if sys.argv[1] == "-c":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as client:
    client.connect(os.environ["SOCKET"])
    socket.send_fds(client, [json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    sys.exit(int(client.recv(100)))
"""


@pytest.fixture
def forking_bash(imported, tmp_path):  # noqa: F811
    """As `bash`, but the Python scripts run one after another as forks of this process."""
    stub, address = tmp_path / "forking_python", tmp_path / "socket"
    stub.write_text(FORKING)
    stub.chmod(0o755)

    def call(script, cwd, *args, **environment):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(address))
            stack.callback(address.unlink)
            server.listen()
            server.settimeout(0.1)
            out, err = (stack.enter_context(open(tmp_path / name, "w+")) for name in ("out", "err"))
            command = ["bash", str(ROOT / "scripts" / script), *args]
            process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=err, env=os.environ | {
                "PYTHON": str(stub), "SOCKET": str(address)} | environment)
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    serve(server.accept()[0])
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())

    return call


def serve(connection):
    """Run the script that a client asks for, with its standard streams, and send it the exit status."""
    with connection:
        message, streams, _, _ = socket.recv_fds(connection, 100_000, 3)
        (script, *args), cwd, environment = json.loads(message)
        before = os.getcwd()
        os.chdir(cwd)
        pid = fork_script(ROOT / script, args, *streams, environment)
        os.chdir(before)
        for stream in streams:
            os.close(stream)
        connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


@pytest.fixture
def few_digits(monkeypatch):
    """--dataset digits has 150 training images of 16x16 pixels, in this process and its forks."""
    monkeypatch.setitem(dataset_dict, "digits",
                        lambda *args: dataclasses.replace(build_tiny(*args), name="digits"))


def test_quickstart(forking_bash, few_digits, tmp_path):
    environment = {"SAVE_DIR": str(tmp_path / "save"), "EPOCHS": "1"}
    first = forking_bash("quickstart.sh", tmp_path, **environment)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[-1].startswith("quickstart finished: ")
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| (resnet|kd)", line)]
    assert [row[0].strip() for row in rows] == ["kd: resnet20 -> resnet8", "resnet20", "resnet8"]
    assert (tmp_path / "save" / "curves.png").read_bytes().startswith(b"\x89PNG")
    second = forking_bash("quickstart.sh", tmp_path, **environment)
    assert second.stdout.count("all 1 epochs were done before") == 3
    assert [line for line in second.stdout.splitlines() if line.startswith("|")] == \
        [line for line in lines if line.startswith("|")]


def test_setup_takes_the_given_interpreter(tmp_path):
    done = bash("setup.sh", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"ready: {sys.executable}\n")


def test_setup_refuses_what_is_no_python(tmp_path):
    done = bash("setup.sh", tmp_path, PYTHON="/bin/false")
    assert done.returncode == 2
    assert "is not a Python of 3.10" in done.stderr


def test_setup_refuses_a_python_without_pytorch(tmp_path):
    bare = tmp_path / "python3"
    bare.write_text('#!/bin/sh\nfor last; do :; done\n[ "$last" != torchvision ]\n')  # it lacks that one
    bare.chmod(0o755)
    done = bash("setup.sh", tmp_path, PYTHON="./python3")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{bare} has no PyTorch with torchvision" in done.stderr


# The published experiments

ROWS = [line.split("\t") for line in (ROOT / "scripts" / "published.tsv").read_text().splitlines()
        if not line.startswith("#")][1:]
# Stands for an interpreter, but for published.py: keeps what sweep.py is asked for, its arguments and its list.
STUB = f"""#!{sys.executable} -SE
import json, os, sys
if sys.argv[1] == "scripts/sweep.py":
    with open(os.environ["LOG"], "w") as log:
        json.dump([sys.argv[2:], sys.stdin.read()], log)
elif sys.argv[1] != "-c":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
"""


@pytest.fixture
def commands(tmp_path):
    """commands(script, *args, **environment): (the finished process, the jobs of the sweep in their order).

    `commands.arguments` are those of the last sweep.
    """
    stub, log = tmp_path / "python", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def call(script, *args, **environment):
        done = bash(script, tmp_path, *args, **{"PYTHON": str(stub), "LOG": str(log), "SAVE_DIR": "save",
                                                "DATASET": "digits", "EPOCHS": "2"} | environment)
        if not log.exists():
            return done, []
        call.arguments, text = json.loads(log.read_text())
        return done, planned(text, tmp_path)

    return call


def planned(text, tmp_path):
    """The jobs of a list."""
    (tmp_path / "list").write_text(text)
    plan = sweep.Plan()
    sweep.add_list(plan, Namespace(list=str(tmp_path / "list")), [])
    return plan.jobs


def named(jobs):
    """{name of a run: its own flags, and how many epochs}, in the order of the runs; places are below --save_dir."""
    found = {}
    for job in jobs:
        words = shlex.split(job.line())
        own = " ".join(words[:words.index("--dataset")]).replace(f"{job.options.save_dir}/", "")
        found[job.directory.name] = f"{own} for {job.options.epochs}"
    assert len(found) == len(jobs)
    return found


def code(place):
    """What a run's name has of a network or a file that did not exist when the run was named."""
    return hashlib.sha256(place.encode()).hexdigest()[:6]


def run_published(command, *args):
    """The list that published.py prints."""
    status, out, err = command(published, *args)
    assert (status, err) == (0, "")
    return out


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:5]).replace(" ", ""))
def test_every_published_row_parses(row):
    _, teacher, student, method, flags, _, _ = row
    if method == "alone":
        assert flags == "-"
    else:
        given = [] if flags == "-" else flags.split()
        opt = student_options(["--path_t", teacher, "--model_s", student, "--distill", method, *given])
        assert opt.gamma or opt.alpha or opt.beta


def test_commands_of_head_sharing(commands, tmp_path):
    done, jobs = commands("run_headsharing.sh", TRIALS="2", TEACHER_EPOCHS="5", JOBS="3", GPU="cpu", SHARD="1/2")
    assert done.returncode == 0, done.stderr
    save = tmp_path / "save"
    assert commands.arguments == ["--list", "-", "--gpus", "cpu", "--jobs", "3", "--shard", "1/2", "--plot",
                                  f"{save}/curves.png", "--bars", f"{save}/bars.png", "--heads", f"{save}/heads.png"]
    t, s = "resnet32x4_digits_epochs-5_trial-0", "resnet8x4_digits_epochs-2_trial-"
    sh_t = f"resnet32x4_digits_th-resnet8x4-{code(f'teachers/{s}0')}_epochs-5_trial-"
    expected = {f"{s}{trial}": f"train_teacher.py --model resnet8x4 --trial {trial} for 2" for trial in (0, 1)}
    expected[t] = "train_teacher.py --model resnet32x4 --trial 0 for 5"
    expected |= {f"{sh_t}{trial}": f"train_teacher.py --model resnet32x4 --path_th teachers/{s}0 --trial {trial} for 5"
                 for trial in (0, 1)}
    for path, method, flags, weights in (
            (t, "kd", "-r 0.1 -a 0.9 -b 0", "r-0.1_a-0.9_b-0"), (t, "crd", "-r 1 -a 0 -b 0.8", "r-1_a-0_b-0.8"),
            (t, "kdth", "-r 1 -a 1.5 -b 0.02", "r-1_a-1.5_b-0_d-0.02"),
            (t, "crdth", "-r 0.9 -a 1 -b 0.8 -d 0.02", "r-0.9_a-1_b-0.8_d-0.02"),
            (f"{sh_t}0", "crd", "-r 1 -a 1 -b 0.8", "r-1_a-1_b-0.8")):
        for trial in (0, 1):
            name = (f"S-resnet8x4_T-resnet32x4-{code(f'teachers/{path}')}_digits_{method}_{weights}_epochs-2_"
                    f"trial-{trial}")
            expected[name] = (f"train_student.py --path_t teachers/{path} --model_s resnet8x4 --distill {method} "
                              f"{flags} --trial {trial} for 2")
    assert named(jobs) == expected


def test_commands_of_head_sharing_for_another_pair(commands):
    """A teacher's name with '/', which stands for no directory, and a student that is the table's own teacher."""
    done, jobs = commands("run_headsharing.sh", TRIALS="1", MODEL_T="torchvision/resnet18", MODEL_S="resnet32x4",
                          MORE="1", METHODS="kdth kd projector")
    assert done.returncode == 0, done.stderr
    found = named(jobs)
    t = "torchvision.resnet18_digits_epochs-2_trial-0"
    assert found[t] == "train_teacher.py --model torchvision/resnet18 --trial 0 for 2"
    head = "teachers/resnet32x4_digits_epochs-2_trial-0"
    sh_t = f"torchvision.resnet18_digits_th-resnet32x4-{code(head)}_epochs-2_trial-0"
    assert found[sh_t] == f"train_teacher.py --model torchvision/resnet18 --path_th {head} --trial 0 for 2"
    students = sorted(command for command in found.values() if command.startswith("train_student.py"))
    assert students == sorted(
        f"train_student.py --path_t teachers/{path} --model_s resnet32x4 --distill {method} --trial 0 for 2"
        for path, method in (
            (t, "kd -r 0.1 -a 0.9 -b 0"), (t, "kdth -r 1 -a 1.5 -b 0.02"), (t, "kd -r 1 -a 1.5 -b 0"),
            (t, "kd -r 1 -a 1.5 -b 0 --copy_head 1"), (sh_t, "kd -r 1 -a 1.5 -b 0"),
            (t, "projector -r 1 -a 1 -b 2 --projector_loss diff"),
            (t, "projector -r 1 -a 1 -b 1 --projector_loss corr")))


def test_a_source_without_rows_fails():
    with pytest.raises(UsageError, match=r"scripts/published.tsv has no rows of headshering"):
        published.read_table(["headshering"])


def test_flags_and_the_environment_say_the_same(command, monkeypatch):
    """A flag overrides its variable; an empty variable is none."""
    given = run_published(command, "simkd", "--trials", "2", "--methods", "kd,simkd", "--students", "vgg8", "--epochs",
                          "7", "--teacher_epochs", "9", "--save_dir", "there", "--flags", "--seed 3")
    students = 2 * sum(row[0] == "simkd" and row[2] == "vgg8" and row[3] in ("kd", "simkd") for row in ROWS)
    assert [line.split()[:2] for line in given.splitlines()[:2]] == [["resnet32x4:", "train_teacher.py"],
                                                                     ["train_student.py", "--path_t"]]
    assert given.count("train_teacher.py") == given.count("--epochs 9 --seed 3") == 1
    assert given.count("train_student.py") == given.count("--epochs 7 --seed 3") == students
    for variable, value in {"TRIALS": "5", "METHODS": "kd simkd", "STUDENTS": "vgg8", "EPOCHS": "7",
                            "TEACHER_EPOCHS": "9", "SAVE_DIR": "there", "FLAGS": "--seed 3", "DATASET": ""}.items():
        monkeypatch.setenv(variable, value)
    assert run_published(command, "simkd", "--trials", "2") == given


@pytest.mark.parametrize(("args", "message"), [
    (["repdistiller", "--methods", "kdd"], "METHODS: there is no 'kdd' here: choose from abound alone "),
    (["repdistiller", "--students", "resnet9"], "STUDENTS: there is no 'resnet9' here: choose from"),
    (["vanilla", "--models", "resnet9"], "MODELS: there is no 'resnet9' here: choose from"),
    (["repdistiller", "--trials", "0"], "'0' is not a whole number from 1 on"),
    (["takd", "resnet8"], "TEACHER ASSISTANT... STUDENT"),
    (["dih", "resnet8"], "leave out resnet8"),
    (["compare"], "set TEACHER (--teacher)"),
    (["simkdd"], "invalid choice: 'simkdd'"),
])
def test_bad_input_of_published(command, args, message):
    status, out, err = command(published, *args)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_every_row_is_run(command, tmp_path):
    """Once for each trial, from trial 0 of its teacher; and every network of the tables alone."""
    for source in ("repdistiller", "simkd"):
        rows = [row for row in ROWS if row[0] == source]
        jobs = planned(run_published(command, source, "--trials", "2"), tmp_path)
        students = [job for job in jobs if job.script == "train_student.py"]
        assert len(students) == 2 * sum(row[3] != "alone" for row in rows)
        assert all(job.needs and job.needs[0].options.trial == "0" for job in students)
        alone = {row[1] for row in rows} | {row[2] for row in rows if row[3] == "alone"}
        assert {job.options.model for job in jobs if job.script == "train_teacher.py"} == alone
    jobs = planned(run_published(command, "vanilla", "--trials", "2"), tmp_path)
    networks = {name for row in ROWS if row[0] in ("repdistiller", "simkd") for name in row[1:3]}
    assert sorted((job.options.model, job.options.trial) for job in jobs) == sorted(
        (name, trial) for name in networks for trial in "01")


@pytest.mark.parametrize("heads", [True, False])
def test_comparison_of_methods(commands, command, teacher_dir, tmp_path, heads):
    """Every registered method; heads are tuned first where they are not there."""
    teacher = tmp_path / "t"
    shutil.copytree(teacher_dir, teacher)
    if not heads:
        for place in ("heads", "heads_sepconv"):
            shutil.rmtree(teacher / place)
            (teacher / f"{place}.pth").unlink()
    chosen = {} if heads else {"METHODS": "kd tofd dih+th dml hint"}  # all: published.py has to import PyTorch
    done, jobs = commands("compare_methods.sh", TEACHER=str(teacher), STUDENT="resnet14", TRIALS="2", **chosen)
    assert done.returncode == 0, done.stderr
    tuned = [] if heads else ["sepconv", "flat"]
    assert [job.options.head_type for job in jobs if job.script == "train_heads.py"] == tuned
    students = {(job.options.distill, job.options.trial): job for job in jobs if job.script == "train_student.py"}
    names = list(methods) if heads else chosen["METHODS"].split()
    assert list(students) == [(name, trial) for trial in "01" for name in names]
    assert all(job.options.skip_validation and job.options.model_s == "resnet14" for job in students.values())
    assert {job.options.path_t for job in students.values()} == {str(teacher), None}
    assert students["hint", "1"].options.init_epochs == 2
    assert sum(job.script == "train_teacher.py" for job in jobs) == 2


@pytest.mark.parametrize("flag", ["--plot", "--bars", "--heads"])
def test_report_refuses_what_is_no_picture(flag, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts" / "report.py", tmp_path, flag, "curves.xyz"],
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "curves.xyz is no picture: give a name that ends in .png, .pdf, .svg" in done.stderr


def test_report_without_runs(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts" / "report.py", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: no run with metrics.jsonl below {tmp_path}\n"


@pytest.mark.parametrize("script", ["train_teacher.py", "train_heads.py", "train_student.py", "evaluate.py",
                                    "compare_heads.py"])
def test_every_entry_script_helps(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not stopped.value.code
    assert capsys.readouterr().out.startswith(f"usage: {script}")


# Intermediate classifiers

def table_rows(text):
    """{first cell: the others} of the Markdown tables in a script's output."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {first: others for first, *others in rows}


def test_the_pipeline_of_dih(forking_bash, forked, few_digits, tmp_path):  # noqa: F811
    """Teacher, heads, DIH and its baselines, from nothing to the tables and pictures; then all is there."""
    save = tmp_path / "save"
    environment = dict(DATASET="digits", EPOCHS="1", TRIALS="1", MODEL_T="resnet14", MODEL_S="resnet8",
                       ASSISTANT="resnet8", INIT_EPOCHS="1", GPU="cpu", JOBS="2", SAVE_DIR=str(save),
                       FLAGS="--image_size 8 --batch_size 512 --precision fp32")
    done = forking_bash("run_dih.sh", tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert {f"{method}: resnet14 -> resnet8" for method in ("dih", "kd", "hint", "attention", "crd", "tofd", "mhkd")} \
        < rows.keys()
    assert {"kd: resnet8 -> resnet8", "resnet14", "flat heads of resnet14", "sepconv heads of resnet14"} < rows.keys()
    assert rows["kd: resnet14 -> resnet8"][1] == "1"  # the baseline is the assistant
    assert rows["heads"] == ["trials", "stage 1, %", "stage 2, %", "stage 3, %", "teacher, %", "parameters"]
    for picture in ("curves.png", "bars.png", "heads.png"):
        assert (save / picture).read_bytes().startswith(b"\x89PNG")
    again = forking_bash("run_dih.sh", tmp_path, **environment)
    assert again.returncode == 0, again.stderr
    assert table_rows(again.stdout) == rows
    assert [line.split()[1] for line in again.stdout.splitlines() if line.startswith("[")] == ["done"] * 11


def test_commands_of_dih(commands):
    """The flags of all runs are in their names: others are other runs."""
    done, jobs = commands("run_dih.sh", TRIALS="2", TEACHER_EPOCHS="5", MORE="1", FLAGS="--seed 3")
    assert done.returncode == 0, done.stderr
    found = named(jobs)
    teacher = "resnet110_digits_recipe-dih_epochs-5_seed-3_trial-0"
    path, t = f"--path_t teachers/{teacher}", f"T-resnet110-{code(f'teachers/{teacher}')}"
    assert found.pop(teacher) == "train_teacher.py --model resnet110 --trial 0 for 5"
    assert found.pop("heads") == f"train_heads.py {path} --head_type flat for 2"
    assert found.pop("heads_sepconv") == f"train_heads.py {path} --head_type sepconv for 2"
    assistant = f"S-resnet20_{t}_digits_kd_r-0.9_a-0.1_b-0_recipe-dih_epochs-2_seed-3_trial-0"
    assert found.pop(assistant) == f"train_student.py {path} --model_s resnet20 --distill kd --trial 0 for 2"
    expected = []
    for trial in (0, 1):
        expected += [f"train_teacher.py --model resnet8 --trial {trial} for 2",
                     f"train_student.py --path_t students/{assistant} --model_s resnet8 --distill kd --trial {trial} "
                     "for 2"]
        for method in ("dih", "kd", "hint", "attention", "crd", "tofd", "mhkd", "dml"):
            start = "" if method == "dml" else f"{path} "
            more = {"hint": " --init_epochs 40", "dml": " --peers resnet110"}.get(method, "")
            expected.append(f"train_student.py {start}--model_s resnet8 --distill {method}{more} --trial {trial} for 2")
    assert sorted(found.values()) == sorted(expected)
    assert all("_recipe-dih_" in name and "_seed-3_" in name for name in found)
    assert {job.options.recipe for job in jobs} == {"dih"} and {job.options.seed for job in jobs} == {3}


def test_a_chain_of_assistants(commands):
    done, jobs = commands("run_takd.sh", "resnet20", "torchvision/resnet18", "resnet14", "resnet8", TRIALS="2")
    assert done.returncode == 0, done.stderr
    first, second, third, *_ = (f"{kind}/{name}" for kind, name in zip(
        ["teachers", "students", "students", "students", "students"], named(jobs), strict=True))
    assert first == "teachers/resnet20_digits_epochs-2_trial-0"
    assert list(named(jobs).values()) == [
        "train_teacher.py --model resnet20 --trial 0 for 2",
        f"train_student.py --path_t {first} --model_s torchvision/resnet18 --distill kd --trial 0 for 2",
        *(f"train_student.py --path_t {path} --model_s {student} --distill kd --trial {trial} for 2"
          for path, student, trial in ((second, "resnet14", 0), (third, "resnet8", 0), (third, "resnet8", 1)))]
    assert bash("run_takd.sh", ROOT, "resnet20").returncode == 2


@pytest.mark.parametrize("lost", [True, False])
def test_lost_heads_are_written_again(commands, tmp_path, lost):
    """Those of a run that was killed after its last epoch, before it wrote the file."""
    teacher = tmp_path / "save" / "teachers" / "resnet110_digits_recipe-dih_epochs-2_trial-0"
    for directory in (teacher, teacher / "heads"):
        directory.mkdir(parents=True)
        (directory / "metrics.jsonl").write_text('{"test_acc": 50}\n' * 2)
        (directory / "options.json").write_text('{"data_dir": "data"}')
    if not lost:
        (teacher / "heads.pth").touch()
    done, jobs = commands("run_dih.sh", TRIALS="1", METHODS="dih")
    assert done.returncode == 0, done.stderr
    unfinished = [job.directory.name for job in jobs if not job.is_finished()]
    assert (unfinished[0] == "heads") == lost and len(unfinished) == 1 + lost


@pytest.mark.parametrize("script", ["run_dih.sh", "run_headsharing.sh"])
def test_an_unknown_method_is_refused_first(commands, script):
    done, jobs = commands(script, METHODS="kd kdt")
    assert done.returncode == 2
    assert "there is no 'kdt' here: choose from" in done.stderr
    assert not jobs
