"""The scripts of README, as a user runs them: from another directory, twice."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.options import student_options
from errors import UsageError
from scripts import published, sweep

ROOT = Path(__file__).resolve().parent.parent


def bash(script, cwd, *args, **environment):
    return subprocess.run(["bash", str(ROOT / "scripts" / script), *args], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHON": sys.executable} | environment)


@pytest.mark.slow
def test_quickstart(tmp_path):
    environment = {"SAVE_DIR": str(tmp_path / "save"), "EPOCHS": "1"}
    first = bash("quickstart.sh", tmp_path, **environment)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[-1].startswith("quickstart finished: ")
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| (resnet|kd)", line)]
    assert [row[0].strip() for row in rows] == ["kd: resnet20 -> resnet8", "resnet20", "resnet8"]
    assert (tmp_path / "save" / "curves.png").read_bytes().startswith(b"\x89PNG")
    second = bash("quickstart.sh", tmp_path, **environment)
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


@pytest.fixture
def listed(monkeypatch, capsys, tmp_path):
    """listed(experiment, *args, **environment): [(label or None, a run's own flags, its epochs)] of published.py."""

    def call(experiment, *args, **environment):
        monkeypatch.chdir(tmp_path)
        for key, value in ({"SAVE_DIR": "save", "DATASET": "digits", "EPOCHS": "2"} | environment).items():
            monkeypatch.setenv(key, value)
        published.main([experiment, *args])
        found = []
        for line in capsys.readouterr().out.splitlines():
            label, line = re.fullmatch(r"(?:(\S+): )?(.*)", line).groups()
            own, epochs = re.fullmatch(r"(.*) --dataset digits --data_dir data --save_dir save --epochs (\d+).*",
                                       line).groups()
            found.append((label, own, int(epochs)))
        return found

    return call


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:5]).replace(" ", ""))
def test_every_published_row_parses(row):
    _, teacher, student, method, flags, _, _ = row
    if method == "alone":
        assert flags == "-"
    else:
        given = [] if flags == "-" else flags.split()
        opt = student_options(["--path_t", teacher, "--model_s", student, "--distill", method, *given])
        assert opt.gamma or opt.alpha or opt.beta


def test_commands_of_head_sharing(listed):
    found = listed("headsharing", TRIALS="2", TEACHER_EPOCHS="5")
    expected = {f"train_teacher.py --model resnet8x4 --trial {trial}": 2 for trial in (0, 1)}
    expected["train_teacher.py --model resnet32x4 --trial 0"] = 5
    expected |= {f"train_teacher.py --model resnet32x4 --path_th @resnet8x4-alone --trial {trial}": 5
                 for trial in (0, 1)}
    for teacher, method, flags in (
            ("resnet32x4", "kd", "-r 0.1 -a 0.9 -b 0"), ("resnet32x4", "crd", "-r 1 -a 0 -b 0.8"),
            ("resnet32x4", "kdth", "-r 1 -a 1.5 -b 0.02"), ("resnet32x4", "crdth", "-r 0.9 -a 1 -b 0.8 -d 0.02"),
            ("resnet32x4-th-resnet8x4", "crd", "-r 1 -a 1 -b 0.8")):
        for trial in (0, 1):
            expected[f"train_student.py --path_t @{teacher} --model_s resnet8x4 --distill {method} {flags} "
                     f"--trial {trial}"] = 2
    assert {own: epochs for _, own, epochs in found} == expected
    labels = {label: own for label, own, _ in found if label}
    assert labels["resnet8x4-alone"] == "train_teacher.py --model resnet8x4 --trial 0"
    assert labels["resnet32x4"] == "train_teacher.py --model resnet32x4 --trial 0"
    assert "--path_th" in labels["resnet32x4-th-resnet8x4"]


def test_commands_of_head_sharing_for_another_pair(listed):
    """A teacher's name with '/', which stands for no directory, and a student that is the table's own teacher."""
    found = listed("headsharing", TRIALS="1", MODEL_T="torchvision/resnet18", MODEL_S="resnet32x4", MORE="1",
                   METHODS="kdth kd projector")
    t, sh_t = "@torchvision.resnet18", "@torchvision.resnet18-th-resnet32x4"
    assert (t[1:], "train_teacher.py --model torchvision/resnet18 --trial 0", 2) in found
    assert (sh_t[1:], "train_teacher.py --model torchvision/resnet18 --path_th @resnet32x4-alone --trial 0", 2) in found
    students = sorted(own for _, own, _ in found if own.startswith("train_student.py"))
    assert students == sorted(
        f"train_student.py --path_t {path} --model_s resnet32x4 --distill {method} --trial 0"
        for path, method in (
            (t, "kd -r 0.1 -a 0.9 -b 0"), (t, "kdth -r 1 -a 1.5 -b 0.02"), (t, "kd -r 1 -a 1.5 -b 0"),
            (t, "kd -r 1 -a 1.5 -b 0 --copy_head 1"), (sh_t, "kd -r 1 -a 1.5 -b 0"),
            (t, "projector -r 1 -a 1 -b 2 --projector_loss diff"),
            (t, "projector -r 1 -a 1 -b 1 --projector_loss corr")))


def test_an_unknown_experiment_is_refused(tmp_path):
    done = bash("run_published.sh", tmp_path, "headshering")
    assert (done.returncode, done.stdout) == (2, "")
    assert "headshering" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("experiment", "rows"), [("repdistiller", 13 * 13), ("simkd", 3 * 9), ("vanilla", 10)])
def test_every_list_is_of_runs_that_the_sweep_takes(monkeypatch, capsys, tmp_path, experiment, rows):
    monkeypatch.chdir(tmp_path)
    published.main([experiment, "--trials", "1"])
    lines = capsys.readouterr().out
    (tmp_path / "list").write_text(lines)
    sweep.main(["--list", "list", "--dry_run"])
    planned = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert len(planned) == len(lines.splitlines()) > rows


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
def test_every_entry_script_helps(script):
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {script}")


# Intermediate classifiers

def table_rows(text):
    """{first cell: the others} of the Markdown tables in a script's output."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {first: others for first, *others in rows}


@pytest.mark.slow
def test_the_pipeline_of_dih(tmp_path):
    """Teacher, heads, DIH and its baselines, from nothing to the tables and pictures."""
    save = tmp_path / "save"
    done = bash("run_dih.sh", tmp_path, DATASET="digits", EPOCHS="1", TRIALS="1", MODEL_T="resnet14", MODEL_S="resnet8",
                ASSISTANT="resnet8", INIT_EPOCHS="1", GPU="cpu", JOBS="2", SAVE_DIR=str(save),
                METHODS="dih hint takd crd tofd", FLAGS="--image_size 8 --batch_size 512 --precision fp32")
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert {f"{method}: resnet14 -> resnet8" for method in ("dih", "hint", "crd", "tofd")} < rows.keys()
    assert {"kd: resnet8 -> resnet8", "resnet14", "flat heads of resnet14", "sepconv heads of resnet14"} < rows.keys()
    assert rows["heads"] == ["trials", "stage 1, %", "stage 2, %", "stage 3, %", "teacher, %", "parameters"]
    for picture in ("curves.png", "bars.png", "heads.png"):
        assert (save / picture).read_bytes().startswith(b"\x89PNG")


def test_commands_of_dih(listed):
    found = listed("dih", TRIALS="2", TEACHER_EPOCHS="5", MORE="1", FLAGS="--seed 3")
    path = "--path_t @resnet110"
    expected = {"train_teacher.py --model resnet110 --trial 0": 5, f"train_heads.py {path} --head_type flat": 2,
                f"train_heads.py {path} --head_type sepconv": 2,
                f"train_student.py {path} --model_s resnet20 --distill kd --trial 0": 2}
    for trial in (0, 1):
        expected[f"train_teacher.py --model resnet8 --trial {trial}"] = 2
        expected[f"train_student.py --path_t @takd-resnet110-resnet20 --model_s resnet8 --distill kd "
                 f"--trial {trial}"] = 2
        for method in ("dih", "kd", "hint", "attention", "crd", "tofd", "mhkd", "dml"):
            more = {"hint": " --init_epochs 40", "dml": " --peers resnet110"}.get(method, "")
            teacher = "" if method == "dml" else f" {path}"
            expected[f"train_student.py{teacher} --model_s resnet8 --distill {method}{more} --trial {trial}"] = 2
    assert {own: epochs for _, own, epochs in found} == expected


def test_a_chain_of_assistants(listed):
    found = listed("takd", "resnet20", "torchvision/resnet18", "resnet14", "resnet8", TRIALS="2")
    assert [own for _, own, _ in found] == [
        "train_teacher.py --model resnet20 --trial 0",
        "train_student.py --path_t @resnet20 --model_s torchvision/resnet18 --distill kd --trial 0",
        "train_student.py --path_t @takd-resnet20-torchvision.resnet18 --model_s resnet14 --distill kd --trial 0",
        *(f"train_student.py --path_t @takd-resnet20-torchvision.resnet18-resnet14 --model_s resnet8 --distill kd "
          f"--trial {trial}" for trial in (0, 1))]
    with pytest.raises(UsageError, match="name the chain's networks"):
        listed("takd", "resnet20")


@pytest.mark.parametrize("experiment", ["dih", "headsharing"])
def test_an_unknown_method_is_refused_first(listed, experiment):
    with pytest.raises(UsageError, match="METHODS: there is no 'kdt' here: choose from"):
        listed(experiment, METHODS="kd kdt")
