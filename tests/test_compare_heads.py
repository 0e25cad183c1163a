"""compare_heads.py as a user runs it."""
import json
from argparse import Namespace

import pytest
import torch

import compare_heads
import evaluate
import train_student
from models import create_model, open_checkpoint
from tests.conftest import TINY, on_other_data


@pytest.fixture
def compare(command, tmp_path):
    """compare(*args): (exit status, standard output, standard error, numbers of --json or None)."""

    def call(*args):
        file = tmp_path / "numbers.json"
        status, out, err = command(compare_heads, *args, "--precision", "fp32", "--save_dir", tmp_path / "save",
                                   "--json", file)
        return status, out, err, json.loads(file.read_text()) if file.exists() else None

    return call


@pytest.fixture
def refused(compare, tmp_path):
    """refused(*args): the message of a refusal that wrote nothing."""

    def call(*args):
        before = sorted(tmp_path.rglob("*"))
        status, out, err, _ = compare(*args)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return call


def weights_file(path, name="resnet8", classes=10):
    """A published file: weights, and a name that tells the network."""
    torch.save({"model": create_model(name, classes).state_dict()}, path)
    return path


def test_two_runs(teacher_dir, tmp_path, compare, command):
    train_student.main([*TINY, "--path_t", str(teacher_dir), "--model_s", "resnet8", "--save_dir", str(tmp_path),
                        "--name", "student", "--skip_validation"])
    student = tmp_path / "students" / "student"
    status, out, err, numbers = compare(student, teacher_dir)
    assert (status, err) == (0, "")
    command(evaluate, "--path", student, "--path_t", teacher_dir, "--precision", "fp32", "--json", tmp_path / "s.json")
    scores = json.loads((tmp_path / "s.json").read_text())
    assert numbers["predictions"] == {"dataset": "tiny", "split": "test", "agreement": scores["agreement"],
                                      "acc_a": scores["acc"], "acc_b": scores["teacher_acc"], "images": 100}
    assert numbers["a"] == {"path": str(student), "arch": "resnet8", "width": 64, "includes_adapter": False}
    assert {"b", "classes", "weights", "biases", "similarity_correlation"} < numbers.keys()
    picture = tmp_path / "save" / "heads_student_resnet8_vanilla.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = out.splitlines()
    assert lines[-1] == f"picture: {picture}"
    assert f"same class {scores['agreement']:.2f}%   A right {scores['acc']:.2f}%" in lines[-2]


def test_a_frozen_copy_of_a_head(teacher_dir, tmp_path, compare):
    train_student.main([*TINY, "--path_t", str(teacher_dir), "--model_s", "resnet8", "--save_dir", str(tmp_path),
                        "--name", "student", "--skip_validation", "--copy_head"])
    _, _, _, numbers = compare(tmp_path / "students" / "student", teacher_dir, "--dataset", "none")
    assert numbers["weights"] == pytest.approx({"mean": 1, "mean_abs": 1, "std": 0, "max_abs": 1}, abs=1e-6)
    assert numbers["biases"]["l2"] == 0
    assert "predictions" not in numbers


def test_files_that_tell_no_data_set(tmp_path, compare):
    a, b = weights_file(tmp_path / "resnet8_a.pth"), weights_file(tmp_path / "resnet8x4_b.pth", "resnet8x4")
    status, out, err, numbers = compare(a, b, "--plot", tmp_path / "heads.svg")
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("note: neither checkpoint tells its data set")
    assert "rows of different widths" in out
    assert not {"weights", "predictions"} & numbers.keys()
    assert (tmp_path / "heads.svg").exists()
    status, out, err, numbers = compare(a, b, "--dataset", "tiny", "--split", "train")
    assert (status, err, numbers["predictions"]["images"]) == (0, "", 150)


def test_the_data_set_of_the_second(teacher_dir, tmp_path, compare):
    path = weights_file(tmp_path / "weights.pth")
    _, _, err, numbers = compare(path, teacher_dir, "--model_a", "resnet8")
    assert (err, numbers["predictions"]["dataset"]) == ("", "tiny")


def test_the_data_set_of_a_published_file(tmp_path, compare):
    options = Namespace(dataset="tiny", model_s="resnet8")
    torch.save({"model": create_model("resnet8", 10).state_dict(), "options": options}, tmp_path / "weights.pth")
    _, _, err, numbers = compare(tmp_path / "weights.pth", tmp_path / "weights.pth")
    assert (err, numbers["predictions"]["dataset"]) == ("", "tiny")


@pytest.mark.parametrize("other", [{"name": "digits"}, {"mean": [0.1, 0.2, 0.3]}], ids=["name", "mean"])
def test_networks_of_different_data(teacher_dir, tmp_path, compare, other):
    raw = dict(open_checkpoint(teacher_dir).raw)
    torch.save(on_other_data(raw, **other), tmp_path / "other.pth")
    status, _, err, numbers = compare(teacher_dir, tmp_path / "other.pth")
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("warning: A and B were trained on different data")
    assert numbers["predictions"]["agreement"] == 100


def test_a_file_that_does_not_tell_its_mean_is_of_the_same_data(teacher_dir, tmp_path, compare):
    """As published ones are."""
    raw = dict(open_checkpoint(teacher_dir).raw)
    del raw["record"]
    torch.save(raw | {"options": Namespace(dataset="tiny")}, tmp_path / "other.pth")
    _, _, err, _ = compare(teacher_dir, tmp_path / "other.pth")
    assert err == ""


def test_an_adapter_is_told_of(teacher_dir, tmp_path, compare):
    """Of a copied head, and of a teacher's head that predicts in the place of the student's own."""
    runs = []
    for name, *args in (("copied", "--copy_head"), ("second", "--distill", "kdth", "--th_inference")):
        train_student.main([*TINY, "--path_t", str(teacher_dir), "--model_s", "wrn_16_2", "--save_dir", str(tmp_path),
                            "--name", name, "--skip_validation", *args])
        runs.append(tmp_path / "students" / name)
    _, out, _, numbers = compare(*runs, "--dataset", "none")
    assert numbers["a"]["includes_adapter"] is numbers["b"]["includes_adapter"] is True
    assert out.count("including the adapter") == 2


def test_bad_input(teacher_dir, tmp_path, refused):
    hundred = weights_file(tmp_path / "resnet8_cifar100.pth", classes=100)
    nameless = weights_file(tmp_path / "weights.pth")
    broken = create_model("resnet8", 10).state_dict()
    broken["fc.weight"][0, 0] = float("nan")
    torch.save({"model": broken}, tmp_path / "resnet8_nan.pth")
    for args, message in (
            ([teacher_dir], "required: B"),
            ([teacher_dir, tmp_path / "none.pth"], "no checkpoint at"),
            ([teacher_dir, hundred], "knows 10 classes and"),
            ([hundred, hundred, "--dataset", "tiny"], "knows 100 classes and tiny has 10"),
            ([teacher_dir, nameless], "name it with --model_b"),
            ([nameless, teacher_dir, "--model_a", "resnet9"], "unknown model 'resnet9'"),
            ([teacher_dir, tmp_path / "resnet8_nan.pth"], "not finite"),
            ([teacher_dir, teacher_dir, "--split", "val"], "tiny has no validation images"),
            ([teacher_dir, teacher_dir, "--dataset", "tinny"], "unknown data set 'tinny'"),
            ([teacher_dir, teacher_dir, "--plot", tmp_path / "heads.bmp"], "ends in .png or .pdf or .svg"),
            ([teacher_dir, teacher_dir, "--plot", tmp_path / "none" / "heads.png"], "cannot be written")):
        assert message in refused(*args)


def test_targets_are_refused_before_anything_is_opened(teacher_dir, tmp_path, command, monkeypatch):
    monkeypatch.setattr(compare_heads, "open_for_comparison", lambda opt: pytest.fail("opened"))
    for file in (tmp_path, tmp_path / "numbers.txt", tmp_path / "none" / "numbers.json"):
        status, _, err = command(compare_heads, teacher_dir, teacher_dir, "--json", file)
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith(f"error: --json {file}")


def test_a_student_that_predicts_otherwise(teacher_dir, tmp_path, refused):
    train_student.main([*TINY, "--distill", "simkd", "--path_t", str(teacher_dir), "--model_s", "resnet14",
                        "--skip_validation", "--save_dir", str(tmp_path), "--name", "run"])
    assert "use another network" in refused(tmp_path / "students" / "run", teacher_dir)
