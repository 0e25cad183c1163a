"""The scripts of README, as a user runs them: from another directory, twice."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.options import student_options

ROOT = Path(__file__).resolve().parent.parent


def bash(script, cwd, *args, **environment):
    return subprocess.run(["bash", str(ROOT / "scripts" / script), *args], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHON": sys.executable} | environment)


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
# Stands for an interpreter: logs what it is asked to run, and leaves the metrics of a finished run.
STUB = f"""#!{sys.executable}
import json, os, pathlib, sys
script, *args = sys.argv[1:]
if script != "-c":
    with open(os.environ["LOG"], "a") as log:
        log.write(json.dumps([script, *args]) + "\\n")
if "--name" in args:
    given = dict(zip(args, args[1:]))
    kind = "teachers" if script == "train_teacher.py" else "students"
    run = pathlib.Path(given["--save_dir"], kind, given["--name"])
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("\\n" * int(given["--epochs"]))
"""


@pytest.fixture
def commands(tmp_path):
    """commands(script, *args, **environment): (the finished process, {name of a run: its own flags, and how many
    epochs}), in the order of the runs."""
    stub, log = tmp_path / "python", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def call(script, *args, **environment):
        done = bash(script, tmp_path, *args, PYTHON=str(stub), LOG=str(log), SAVE_DIR="save", DATASET="digits",
                    EPOCHS="2", **environment)
        found = {}
        for line in log.read_text().splitlines() if log.exists() else []:
            words = json.loads(line)
            if "--name" in words:
                own = " ".join(words[:words.index("--dataset")]).replace(f"{tmp_path}/save/", "")
                epochs = words[words.index("--epochs") + 1]
                found[words[words.index("--name") + 1]] = f"{own} for {epochs}"
        return done, found

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


def test_commands_of_head_sharing(commands):
    done, found = commands("run_headsharing.sh", TRIALS="2", TEACHER_EPOCHS="5")
    assert done.returncode == 0, done.stderr
    t, s, sh = "resnet32x4_digits_epochs-5_trial-0", "resnet8x4_digits_epochs-2_trial-", "resnet32x4_head-resnet8x4"
    sh_t = f"{sh}_digits_epochs-5_trial-"
    expected = {f"{s}{trial}": f"train_teacher.py --model resnet8x4 --trial {trial} for 2" for trial in (0, 1)}
    expected[t] = "train_teacher.py --model resnet32x4 --trial 0 for 5"
    expected |= {f"{sh_t}{trial}": f"train_teacher.py --model resnet32x4 --path_th teachers/{s}0 --trial {trial} for 5"
                 for trial in (0, 1)}
    for teacher, path, method, flags in (
            ("resnet32x4", t, "kd", "-r 0.1 -a 0.9 -b 0"), ("resnet32x4", t, "crd", "-r 1 -a 0 -b 0.8"),
            ("resnet32x4", t, "kdth", "-r 1 -a 1.5 -b 0.02"), ("resnet32x4", t, "crdth", "-r 0.9 -a 1 -b 0.8 -d 0.02"),
            (sh, f"{sh_t}0", "crd", "-r 1 -a 1 -b 0.8")):
        for trial in (0, 1):
            name = f"S-resnet8x4_T-{teacher}_digits_{method}_{re.sub('[ -]', '', flags)}_epochs-2_trial-{trial}"
            expected[name] = (f"train_student.py --path_t teachers/{path} --model_s resnet8x4 --distill {method} "
                              f"{flags} --trial {trial} for 2")
    assert found == expected


def test_commands_of_head_sharing_for_another_pair(commands):
    """A teacher's name with '/', which stands for no directory, and a student that is the table's own teacher."""
    done, found = commands("run_headsharing.sh", TRIALS="1", MODEL_T="torchvision/resnet18", MODEL_S="resnet32x4",
                           MORE="1", METHODS="kdth kd projector")
    assert done.returncode == 0, done.stderr
    t = "torchvision.resnet18_digits_epochs-2_trial-0"
    assert found[t] == "train_teacher.py --model torchvision/resnet18 --trial 0 for 2"
    sh_t = "torchvision.resnet18_head-resnet32x4_digits_epochs-2_trial-0"
    assert found[sh_t] == ("train_teacher.py --model torchvision/resnet18 --path_th "
                           "teachers/resnet32x4_digits_epochs-2_trial-0 --trial 0 for 2")
    students = sorted(command for command in found.values() if command.startswith("train_student.py"))
    assert students == sorted(
        f"train_student.py --path_t teachers/{path} --model_s resnet32x4 --distill {method} --trial 0 for 2"
        for path, method in (
            (t, "kd -r 0.1 -a 0.9 -b 0"), (t, "kdth -r 1 -a 1.5 -b 0.02"), (t, "kd -r 1 -a 1.5 -b 0"),
            (t, "kd -r 1 -a 1.5 -b 0 --copy_head 1"), (sh_t, "kd -r 1 -a 1.5 -b 0"),
            (t, "projector -r 1 -a 1 -b 2 --projector_loss diff"),
            (t, "projector -r 1 -a 1 -b 1 --projector_loss corr")))


def test_a_source_without_rows_fails(tmp_path):
    script = f'source {ROOT}/scripts/published.sh; distill_all headshering; echo "went on"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHON": sys.executable})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: scripts/published.tsv has no rows of headshering\n"


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


def test_the_pipeline_of_dih(tmp_path):
    """Teacher, heads, DIH and its baselines, from nothing to the tables and pictures."""
    save = tmp_path / "save"
    done = bash("run_dih.sh", tmp_path, DATASET="digits", EPOCHS="1", TRIALS="1", MODEL_T="resnet14", MODEL_S="resnet8",
                ASSISTANT="resnet8", INIT_EPOCHS="1", GPU="cpu", SAVE_DIR=str(save),
                FLAGS="--image_size 8 --batch_size 512 --precision fp32")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"all runs finished: {save}"
    rows = table_rows(done.stdout)
    assert {f"{method}: resnet14 -> resnet8" for method in ("dih", "kd", "hint", "attention", "crd", "tofd", "mhkd")} \
        < rows.keys()
    assert {"kd: resnet8 -> resnet8", "resnet14", "flat heads of resnet14", "sepconv heads of resnet14"} < rows.keys()
    assert rows["kd: resnet14 -> resnet8"][1] == "2"  # the baseline, and the assistant
    assert rows["heads"] == ["trials", "stage 1, %", "stage 2, %", "stage 3, %", "teacher, %", "parameters"]
    for picture in ("curves.png", "bars.png", "heads.png"):
        assert (save / picture).read_bytes().startswith(b"\x89PNG")


def test_commands_of_dih(commands):
    """The flags of all runs are in their names: others are other runs."""
    done, found = commands("run_dih.sh", TRIALS="2", TEACHER_EPOCHS="5", MORE="1", FLAGS="--seed 3")
    assert done.returncode == 0, done.stderr
    path = "--path_t teachers/resnet110_digits_recipedihseed3_epochs-5_trial-0"
    teacher = "resnet110_digits_recipedihseed3_epochs-5_trial-0"
    assert found.pop(teacher) == "train_teacher.py --model resnet110 --trial 0 for 5"
    assert found.pop("heads") == f"train_heads.py {path} --head_type flat for 2"
    assert found.pop("heads_sepconv") == f"train_heads.py {path} --head_type sepconv for 2"
    assistant = "takd_resnet110-resnet20_digits_recipedihseed3_epochs-2_trial-0"
    assert found.pop(assistant) == f"train_student.py {path} --model_s resnet20 --distill kd --trial 0 for 2"
    expected = {}
    for trial in (0, 1):
        expected[f"resnet8_digits_recipedihseed3_epochs-2_trial-{trial}"] = (
            f"train_teacher.py --model resnet8 --trial {trial} for 2")
        expected[f"takd_resnet110-resnet20-resnet8_digits_recipedihseed3_epochs-2_trial-{trial}"] = (
            f"train_student.py --path_t students/{assistant} --model_s resnet8 --distill kd --trial {trial} for 2")
        for method in ("dih", "kd", "hint", "attention", "crd", "tofd", "mhkd", "dml"):
            more = {"hint": f"{path} --init_epochs 40", "dml": "--peers resnet110"}.get(method, path)
            expected[f"resnet8_T-resnet110_digits_recipedihseed3_{method}_epochs-2_trial-{trial}"] = (
                f"train_student.py --model_s resnet8 --distill {method} {more} --trial {trial} for 2")
    assert found == expected


def test_a_chain_of_assistants(commands):
    done, found = commands("run_takd.sh", "resnet20", "torchvision/resnet18", "resnet14", "resnet8", TRIALS="2")
    assert done.returncode == 0, done.stderr
    assert list(found.values()) == [
        "train_teacher.py --model resnet20 --trial 0 for 2",
        "train_student.py --path_t teachers/resnet20_digits_epochs-2_trial-0 --model_s torchvision/resnet18 "
        "--distill kd --trial 0 for 2",
        *(f"train_student.py --path_t students/takd_resnet20-torchvision.resnet18{more}_digits_epochs-2_trial-0 "
          f"--model_s {student} --distill kd --trial {trial} for 2"
          for more, student, trial in (("", "resnet14", 0), ("-resnet14", "resnet8", 0), ("-resnet14", "resnet8", 1)))]
    assert bash("run_takd.sh", ROOT, "resnet20").returncode == 2


@pytest.mark.parametrize("lost", [True, False])
def test_lost_heads_are_written_again(commands, tmp_path, lost):
    """Those of a run that was killed after its last epoch, before it wrote the file."""
    teacher = tmp_path / "save" / "teachers" / "resnet110_digits_recipedih_epochs-2_trial-0"
    for directory in (teacher, teacher / "heads"):
        directory.mkdir(parents=True)
        (directory / "metrics.jsonl").write_text("\n\n")
    if not lost:
        (teacher / "heads.pth").touch()
    done, found = commands("run_dih.sh", TRIALS="1", METHODS="dih")
    assert done.returncode == 0, done.stderr
    assert ("heads" in found) == lost


@pytest.mark.parametrize("script", ["run_dih.sh", "run_headsharing.sh"])
def test_an_unknown_method_is_refused_first(commands, script):
    done, found = commands(script, METHODS="kd kdt")
    assert done.returncode == 2
    assert "there is no 'kdt' here: choose from" in done.stderr
    assert not found
