"""Run directories of an earlier version (tests/files_of_1_0): they open, are scored, taught from and resumed."""
import json
import shutil
from pathlib import Path

import pytest
import torch

import compare_heads
import evaluate
import train_student
from errors import UsageError
from models import load_model, open_checkpoint, read_checkpoint
from models.deploy import Mixture
from models.reused import ReusedClassifier
from runs.report import find_runs, group_runs, table

FILES = Path(__file__).parent / "files_of_1_0"
TRAINING = ["--dataset", "digits", "--image_size", "16", "--batch_size", "128", "--precision", "fp32",
            "--save_freq", "0"]
STUDENT = ["--path_t", "save/teachers/teacher", "--skip_validation", "--model_s", "resnet8", *TRAINING]
STOPPED = {"kd": ["--distill", "kd"],
           "crd+th": ["--distill", "crd+th", "--nce_k", "8", "--feat_dim", "4", "--validation_th_weight", "0.5"]}


@pytest.fixture
def save(tmp_path, monkeypatch):
    """A copy of the run directories where their records say they are."""
    shutil.copytree(FILES, tmp_path / "save")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "save"


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.parametrize("name", ["teachers/teacher", "teachers/adapter", "students/simkd", "students/kdth",
                                  "students/dih"])
def test_a_run_is_scored_as_it_was(save, name, command, tmp_path):
    recorded = read_checkpoint(save / name / "best.pth")["metrics"]
    status, _, err = command(evaluate, "--path", save / name, "--precision", "fp32", "--json", tmp_path / "scores.json")
    assert status == 0, err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["acc"] == pytest.approx(recorded["test_acc"], abs=0.6)  # two images may fall otherwise elsewhere
    assert scores["loss"] == pytest.approx(recorded["test_loss"], rel=1e-3)


def test_what_a_run_deploys_is_rebuilt(save):
    assert isinstance(load_model(save / "students" / "simkd"), ReusedClassifier)
    assert isinstance(load_model(only(save, "students/S-*_crd+th_*")), Mixture)
    for name in ("teachers/adapter", "students/kdth"):
        assert load_model(save / name).fc.in_features == 64
    assert open_checkpoint(save / "students" / "kdth").deployment.spec["th_weight"] == 1


def test_a_record_without_an_option_that_came_later(save):
    """The projector's factor follows from its weights."""
    raw = dict(read_checkpoint(save / "students" / "simkd" / "best.pth"))
    del raw["options"]["factor"]
    torch.save(raw, save / "students" / "simkd" / "best.pth")
    assert isinstance(load_model(save / "students" / "simkd"), ReusedClassifier)


@pytest.mark.parametrize("kind", STOPPED)
def test_a_stopped_run_goes_on_to_its_end(save, kind):
    """By the command that began it, whose run's name is found again."""
    directory = only(save, f"students/S-*_{kind}_*")
    train_student.main([*STUDENT, "--epochs", "2", *STOPPED[kind]])
    assert only(save, f"students/S-*_{kind}_*") == directory
    row = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    expected = json.loads((FILES / "resumed" / f"{kind}.json").read_text())
    for key in expected.keys() - {"seconds", "images_per_second", "train_acc", "test_acc", "test_acc_top5"}:
        assert row[key] == pytest.approx(expected[key], rel=1e-2), key
    assert row["test_acc"] == pytest.approx(expected["test_acc"], abs=2)


def test_other_options_are_still_refused(save):
    directory = only(save, "students/S-*_kd_*")
    with pytest.raises(UsageError, match="was begun with batch_size = 128, not 64"):
        train_student.main([*STUDENT, "--epochs", "2", "--batch_size", "64", "--name", directory.name])


def test_a_teacher_and_its_heads_teach(save):
    train_student.main([*STUDENT, "--epochs", "1", "--distill", "dih", "--name", "again"])
    train_student.main([*STUDENT, "--epochs", "1", "--distill", "simkd", "--name", "more"])
    assert json.loads((save / "students" / "again" / "metrics.jsonl").read_text())["train_loss"] > 0


def test_tables_have_them(save):
    text = table(group_runs(find_runs([save])))
    for label in ("simkd: resnet8 -> resnet8", "resnet8 with the head of resnet8x4", "flat heads of resnet8"):
        assert f"| {label} |" in text


def test_classifiers_are_compared(save, command, tmp_path):
    status, out, err = command(compare_heads, "save/teachers/teacher", "save/students/kdth", "--save_dir", tmp_path)
    assert status == 0, err
    assert "mean 1.0000" in out  # kdth predicts by the teacher's own classifier
