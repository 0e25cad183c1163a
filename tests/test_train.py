"""Training through the entry scripts, on digits: what is written, and what a run is worth afterwards."""
import copy
import json

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train_student
import train_teacher
from dataset import dataset_dict
from models import create_model, load_model, read_checkpoint
from tests.conftest import TINY, build_tiny, recorded


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def kd_run(tmp_path_factory, teacher_dir):
    """A student distilled by kd for two epochs."""
    save = tmp_path_factory.mktemp("student")
    train_student.main([*TINY, "--epochs", "2", "--path_t", str(teacher_dir), "--model_s", "resnet8", "--save_dir",
                        str(save), "--save_freq", "1"])
    return next((save / "students").iterdir())


def test_the_files_of_a_run(kd_run):
    names = {file.name.split(".")[0] if "tfevents" in file.name else file.name for file in kd_run.iterdir()}
    assert names == {".lock", "best.pth", "ckpt_epoch_1.pth", "ckpt_epoch_2.pth", "events", "last.pth",
                     "metrics.jsonl", "options.json"}
    assert kd_run.name.startswith("S-resnet8_T-resnet8-")
    assert kd_run.name.endswith("_tiny_kd_r-0.1_a-0.9_b-0_epochs-2_batch_size-32_precision-fp32_trial-1")


def test_metrics_of_an_epoch(kd_run):
    for epoch, row in enumerate(rows(kd_run), 1):
        assert row["epoch"] == epoch
        assert row["train_loss"] == pytest.approx(row["loss_ce"] + row["loss_kl"])
        assert {"lr", "train_acc", "test_acc", "test_acc_top5", "test_loss", "images_per_second"} < row.keys()


def test_tensorboard_has_the_published_tags(kd_run):
    events = EventAccumulator(str(kd_run)).Reload()
    assert {"train_acc", "train_loss", "test_acc", "test_acc_top5", "test_loss"} < set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("test_acc")] == [1, 2]
    assert [event.value for event in events.Scalars("test_acc")] == pytest.approx([r["test_acc"] for r in rows(kd_run)])


def test_options_name_the_teacher_and_what_it_was_worth(kd_run, teacher_dir):
    options = recorded(kd_run)
    assert options["teacher"]["arch"] == "resnet8"
    assert options["teacher"]["accuracy"] == pytest.approx(rows(teacher_dir)[-1]["test_acc"])
    assert options["parameters"] == sum(p.numel() for p in create_model("resnet8", 10).parameters())


def test_simkd_is_evaluated_as_it_is_deployed(teacher_dir, tmp_path, command):
    """The projector and the teacher's classifier come with the checkpoint; the teacher's file is not needed."""
    train_student.main([*TINY, "--distill", "simkd", "--path_t", str(teacher_dir), "--model_s", "resnet14",
                        "--skip_validation", "--save_dir", str(tmp_path), "--name", "run"])
    run = tmp_path / "students" / "run"
    status, _, err = command(evaluate, "--path", run, "--precision", "fp32", "--json", tmp_path / "scores.json")
    assert status == 0, err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["acc"] == pytest.approx(rows(run)[-1]["test_acc"])
    assert scores["loss"] == pytest.approx(rows(run)[-1]["test_loss"], rel=1e-5)
    raw = copy.deepcopy(dict(read_checkpoint(run)))
    del raw["record"]["options"]["factor"]  # an option that came later than the file
    torch.save(raw, tmp_path / "before.pth")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(load_model(path).eval()(x) for path in (run, tmp_path / "before.pth")))
    status, _, err = command(train_student, *TINY, "--path_t", run, "--model_s", "resnet8", "--save_dir", tmp_path)
    assert (status, "does not predict by one classifier" in err) == (2, True)


@pytest.mark.parametrize("name", ["last.pth", "best.pth", "ckpt_epoch_1.pth"])
def test_evaluate_finds_what_the_run_recorded(kd_run, teacher_dir, name, command, tmp_path):
    checkpoint = read_checkpoint(kd_run / name)
    status, out, err = command(evaluate, "--path", kd_run / name, "--path_t", teacher_dir, "--precision", "fp32",
                               "--json", tmp_path / "scores.json")
    assert status == 0, err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["acc"] == pytest.approx(checkpoint["metrics"]["test_acc"])
    assert scores["acc_top5"] == pytest.approx(checkpoint["metrics"]["test_acc_top5"])
    assert scores["loss"] == pytest.approx(checkpoint["metrics"]["test_loss"], rel=1e-5)
    assert f"top-1 {scores['acc']:.2f}%" in out
    assert 0 <= scores["agreement"] <= 100


@pytest.fixture
def folder_run(tmp_path):
    """A resnet8 trained on a folder of eight by eight pixels, held-out images among them."""
    for i in range(10):
        for split, count in (("train", 3), ("test", 1)):
            (tmp_path / "images" / split / str(i)).mkdir(parents=True)
            for j in range(count):
                Image.new("RGB", (12, 12), (20 * i, 80 * j, 90)).save(tmp_path / "images" / split / str(i) / f"{j}.png")
    train_teacher.main(["--model", "resnet8", "--dataset", "folder", "--data_dir", str(tmp_path / "images"), "--epochs",
                        "1", "--image_size", "8", "--holdout", "1", "--precision", "fp32", "--save_dir", str(tmp_path),
                        "--name", "run"])
    return tmp_path / "teachers" / "run"


def test_evaluate_on_other_data_asks_the_run_for_nothing(folder_run, tmp_path, command, monkeypatch):
    """The place, size and held-out images of a run's own data set are not another one's."""
    asked = []
    monkeypatch.setitem(dataset_dict, "other", lambda *args: asked.append(args[:2]) or build_tiny(*args))
    score = ["--path", folder_run, "--precision", "fp32", "--save_dir", tmp_path]
    status, out, err = command(evaluate, *score, "--dataset", "other")
    assert status == 0, err
    assert asked == [("data", None)]
    assert "(100 images)" in out
    status, _, err = command(evaluate, *score, "--dataset", "other", "--split", "val")
    assert (status, "tiny has no validation images" in err) == (2, True)
    command(evaluate, *score, "--dataset", "other", "--data_dir", "x", "--image_size", "8")
    assert asked[-1] == ("x", 8)
    for own in ([], ["--dataset", "folder"]):  # its own, named or not
        for split in ("val", "test"):
            status, out, err = command(evaluate, *score, *own, "--split", split)
            assert status == 0, err
            assert "(10 images)" in out


def test_a_run_is_repeatable(kd_run, teacher_dir, tmp_path):
    train_student.main([*TINY, "--epochs", "2", "--path_t", str(teacher_dir), "--model_s", "resnet8", "--save_dir",
                        str(tmp_path)])
    again = next((tmp_path / "students").iterdir())
    assert [row["test_loss"] for row in rows(again)] == [row["test_loss"] for row in rows(kd_run)]


def test_a_held_out_set_chooses_and_the_test_set_reports(tmp_path):
    train_teacher.main([*TINY, "--model", "resnet8", "--holdout", "3", "--epochs", "2", "--save_dir", str(tmp_path)])
    directory = next((tmp_path / "teachers").iterdir())
    assert "holdout-3" in directory.name
    assert all({"val_acc", "test_acc"} < row.keys() for row in rows(directory))
    best = max(rows(directory), key=lambda row: row["val_acc"])
    assert read_checkpoint(directory / "best.pth")["metrics"] == best
    assert recorded(directory)["data"]["n_data"] == 150 - 30


def test_a_student_can_be_the_next_teacher(kd_run, tmp_path):
    train_student.main([*TINY, "--path_t", str(kd_run / "best.pth"), "--model_s", "resnet14", "--save_dir",
                        str(tmp_path)])
    assert next((tmp_path / "students").iterdir()).name.startswith("S-resnet14_T-resnet8-")


def test_a_published_checkpoint_is_a_teacher(teacher_dir, tmp_path, capfd):
    """RepDistiller's file layout, with an accuracy that the weights do not have."""
    path = tmp_path / "resnet8_vanilla" / "ckpt_epoch_240.pth"
    path.parent.mkdir()
    torch.save({"epoch": 240, "model": load_model(teacher_dir).state_dict(), "accuracy": torch.tensor(99.0)}, path)
    train_student.main([*TINY, "--path_t", str(path), "--model_s", "resnet8", "--save_dir", str(tmp_path / "save")])
    out, err = capfd.readouterr()
    assert "(its checkpoint says 99.00%)" in out
    assert "measured and recorded accuracies differ" in err


def test_progress_in_plain_lines_when_nobody_watches(tmp_path, capfd):
    train_teacher.main([*TINY, "--model", "resnet8", "--print_freq", "2", "--save_dir", str(tmp_path)])
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("epoch 1/1 [")]
    assert [line.split("]")[0] for line in lines] == ["epoch 1/1 [2/5", "epoch 1/1 [4/5", "epoch 1/1 [5/5"]
    assert all(part in lines[0] for part in ("img/s", "loss_ce", "left 0:0"))
    assert sum(line.startswith("epoch 1/1  lr") for line in out.splitlines()) == 1
