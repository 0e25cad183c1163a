"""Bad input through the command line: one line on standard error, exit status 2, nothing written."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import evaluate
import train_student
import train_teacher
from models import create_model, read_checkpoint
from models.checkpoint import save_checkpoint
from tests.conftest import STEPS, TINY

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("args", "message"), [
    (["--modle", "resnet8"], "unknown flag '--modle': did you mean --model"),
    (["--model", "resnet9"], "unknown model 'resnet9': did you mean"),
    (["--model", "resnet8", "--dataset", "digit"], "unknown data set 'digit': did you mean digits"),
    (["--model", "resnet8", "--dataset", "digits", "--epochs", "many"], "--epochs: 'many' is not a whole number"),
    (["--model", "resnet8", "--dataset", "digits", "--loader", "fast"], "--loader: invalid choice"),
    (["--model", "resnet8", "--dataset", "digits", "--gpu_id", "cpu", "--precision", "fp16"], "fp16 needs a GPU"),
    (["--model", "resnet8", "--dataset", "digits", "--holdout", "5000"], "holdout"),
])
def test_teacher_options(refused, args, message):
    assert message in refused(train_teacher, *args)


def test_a_real_process_exits_with_status_2():
    result = subprocess.run([sys.executable, "train_student.py", "--distill", "kdd", "--path_t", "x"], cwd=ROOT,
                            capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: unknown method 'kdd': did you mean kd, kdsvd, rkd?\n"


def truncated(path):
    save_checkpoint(path, {"model": create_model("resnet8", 10).state_dict(), "arch": "resnet8"})
    path.write_bytes(path.read_bytes()[:-2000])


class Malicious:
    def __reduce__(self):
        return exec, ("open('executed', 'w')",)


CHECKPOINTS = {
    "missing": (lambda path: None, "no checkpoint at"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "truncated": (truncated, "truncated"),
    "text": (lambda path: path.write_text("<html>not found</html>"), "not a checkpoint"),
    "a pickle that runs code": (lambda path: torch.save({"model": Malicious()}, path), "could run code"),
    "another architecture": (lambda path: torch.save({"model": create_model("vgg8", 10).state_dict()}, path),
                             "does not fit resnet8"),
    "another class count": (lambda path: torch.save({"model": create_model("resnet8", 7).state_dict()}, path), "7"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_teacher_checkpoints(refused, tmp_path, monkeypatch, kind):
    make, message = CHECKPOINTS[kind]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "resnet8_vanilla" / "last.pth"
    path.parent.mkdir()
    make(path)
    err = refused(train_student, *TINY, "--path_t", path)
    assert "resnet8_vanilla" in err
    assert message in err
    assert not Path("executed").exists()


def test_a_checkpoint_of_unknown_architecture(refused, tmp_path):
    torch.save({"model": create_model("resnet8", 10).state_dict()}, tmp_path / "weights.pth")
    assert "--model_t" in refused(train_student, *TINY, "--path_t", tmp_path / "weights.pth")


def folder(root, splits, size=(32, 32)):
    """An image folder: {split: {class: number of images}}."""
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", size, (40 * i, 80, 120)).save(root / split / name / f"{i}.png")
    return root


def test_folders(refused, tmp_path):
    args = ["--model", "resnet8", "--dataset", "folder", "--data_dir"]
    assert "nowhere" in refused(train_teacher, *args, tmp_path / "nowhere")
    assert "train" in refused(train_teacher, *args, folder(tmp_path / "a", {"test": {"cat": 1}}))
    assert "image" in refused(train_teacher, *args, folder(tmp_path / "b", {"train": {"cat": 0}, "test": {"cat": 0}}))
    other = folder(tmp_path / "c", {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "cow": 2}})
    assert "cow" in refused(train_teacher, *args, other)
    broken = folder(tmp_path / "d", {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}})
    (broken / "train" / "dog" / "1.png").write_bytes((broken / "train" / "dog" / "0.png").read_bytes()[:40])
    for loader in ("device", "torch"):
        status_message = refused(train_teacher, *args, broken, "--loader", loader, "--epochs", "1")
        assert str(Path("train", "dog", "1.png")) in status_message


@pytest.mark.parametrize(("batch_size", "message"), [(32, "loss term 'ce' is not finite at step"),
                                                     (150, "test_loss is not finite after epoch 1")])
def test_a_loss_that_is_not_finite(command, tmp_path, batch_size, message):
    status, _, err = command(train_teacher, *TINY, "--model", "resnet8", "--batch_size", batch_size, "--learning_rate",
                             "1e30", "--save_dir", tmp_path, "--name", "run")
    assert status == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "teachers" / "run" / "last.pth").exists()


def test_the_last_good_checkpoint_is_kept(command, tmp_path, monkeypatch):
    """The weights go bad in the second epoch: what the first one saved stays."""
    from helper.progress import Progress
    steps = []
    real = Progress.advance

    def poison(self, *args):
        steps.append(1)
        if len(steps) == STEPS + 3:
            for parameter in network[0].parameters():
                parameter.data.fill_(float("nan"))
        real(self, *args)

    network = []
    monkeypatch.setattr(Progress, "advance", poison)
    monkeypatch.setattr("train_teacher.make_network", lambda *a: network.append(make(*a)) or network[0])
    from helper.build import make_network as make
    status, _, err = command(train_teacher, *TINY, "--epochs", "2", "--model", "resnet8", "--save_dir", tmp_path,
                             "--name", "run")
    assert status == 2
    assert "is not finite at step 4" in err
    checkpoint = read_checkpoint(tmp_path / "teachers" / "run" / "last.pth")
    assert checkpoint["epoch"] == 1
    assert all(value.isfinite().all() for value in checkpoint["model"].values())


@pytest.mark.parametrize(("script", "args", "message"), [
    (train_teacher, ["--model", "torchvision/vit_b_16"], "vit_b_16"),
    (train_teacher, ["--model", "torchvision/resnet17"], "did you mean"),
    (train_teacher, ["--model", "MobileNetV2", "--batch_size", "149"], "leaves a last batch of one image"),
    (train_teacher, ["--model", "resnet8", "--trial", "a/b"], "'a/b' is not letters"),
    (train_teacher, ["--model", "resnet8", "--seed", str(2**64)], "is not below"),
    (train_student, ["--path_t", "TEACHER", "--model_s", "vgg8", "--distill", "fsp"], "flow matrices of channels"),
    (train_student, ["--path_t", "TEACHER", "--model_t", "resnet99"], "unknown model 'resnet99'"),
])
def test_networks_and_pairs(refused, teacher_dir, script, args, message):
    args = [str(teacher_dir) if arg == "TEACHER" else arg for arg in args]
    assert message in refused(script, *TINY, *args)


def test_a_save_dir_that_is_a_file(command, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = command(train_teacher, *TINY, "--model", "resnet8", "--save_dir", tmp_path / "file")
    assert (status, err.count("\n")) == (2, 1)
    assert str(tmp_path / "file") in err


def test_other_images_under_one_name(command, tmp_path):
    """A second tree of the same name, shape and size is not taken for the first."""
    for parent, colour in (("a", 10), ("b", 90)):
        root = folder(tmp_path / parent / "images", {"train": {"cat": 4, "dog": 4}, "test": {"cat": 1, "dog": 1}})
        Image.new("RGB", (32, 32), (colour, colour // 2, 7)).save(root / "train" / "cat" / "extra.png")
        Image.effect_noise((32, 32), colour).convert("RGB").save(root / "train" / "dog" / "extra.png")
    args = ["--model", "resnet8", "--dataset", "folder", "--epochs", "1", "--save_dir", tmp_path / "save"]
    assert command(train_teacher, *args, "--data_dir", tmp_path / "a" / "images")[0] == 0
    status, _, err = command(train_teacher, *args, "--data_dir", tmp_path / "b" / "images")
    assert status == 2
    assert "was begun on other images" in err


def test_evaluate(refused, tmp_path):
    assert "no checkpoint at" in refused(evaluate, "--path", tmp_path / "none.pth")


def test_evaluate_without_validation_images(refused, teacher_dir):
    assert "tiny has no validation images" in refused(evaluate, "--path", teacher_dir, "--split", "val")
