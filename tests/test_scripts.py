"""The scripts of README, as a user runs them: from another directory, twice."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def bash(script, cwd, **environment):
    return subprocess.run(["bash", str(ROOT / "scripts" / script)], cwd=cwd, capture_output=True, text=True,
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


def test_report_without_runs(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts" / "report.py", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: no run with metrics.jsonl below {tmp_path}\n"


@pytest.mark.parametrize("script", ["train_teacher.py", "train_student.py", "evaluate.py", "compare_heads.py"])
def test_every_entry_script_helps(script):
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {script}")
