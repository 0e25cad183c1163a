"""Published and damaged checkpoints: what loads, what is refused, and in which words."""
import os
import pickle
from argparse import Namespace

import numpy as np
import pytest
import torch

from errors import UsageError
from models import create_model, load_model, open_checkpoint, read_checkpoint
from models.deploy import Deployment

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model("resnet8", 5)
    model(X)  # running statistics that differ from the default
    return model.eval()


@torch.no_grad()
def assert_same(loaded, model):
    assert torch.equal(loaded.eval()(X), model(X))


def save(directory, checkpoint, name="resnet8/last.pth", **kwargs):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path, **kwargs)
    return path


def test_our_own_file_says_everything(tmp_path, model):
    path = save(tmp_path, {"arch": "resnet8", "num_classes": 5, "imagenet": False, "model": model.state_dict(),
                           "metrics": {"test_acc": 71.5}, "options": {"model": "resnet20"}}, "run/last.pth")
    checkpoint = open_checkpoint(path.parent)
    assert (checkpoint.path, checkpoint.name, checkpoint.num_classes, checkpoint.accuracy) == (path, "resnet8", 5, 71.5)
    assert checkpoint.imagenet is False
    assert checkpoint.state.keys() == model.state_dict().keys()
    assert checkpoint.deployment == Deployment()
    assert_same(checkpoint.build(num_classes=5), model)
    assert_same(checkpoint.deployed(num_classes=5), model)


def test_repdistiller_teacher_with_options_and_numpy_scalars(tmp_path, model):
    """`opt` is an argparse.Namespace; the learning rate, computed by numpy, sits in the optimiser's state."""
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float64(0.0005), momentum=0.9)
    checkpoint = {"opt": Namespace(model="resnet8", learning_rate=0.05, lr_decay_epochs=[150]),
                  "model": model.state_dict(), "optimizer": optimizer.state_dict(), "accuracy": torch.tensor(70.25),
                  "history": np.arange(3.0), "best": np.float32(2)}
    for zipped in (True, False):
        path = save(tmp_path, checkpoint, "anything/file.pth", _use_new_zipfile_serialization=zipped)
        opened = open_checkpoint(path)
        assert (opened.name, opened.num_classes, opened.accuracy) == ("resnet8", 5, 70.25)
        assert opened.raw["optimizer"]["param_groups"][0]["lr"] == 0.0005
        assert_same(opened.build(), model)


def test_student_with_a_teacher_head(tmp_path, model):
    state = {f"model_s.{key}": tensor for key, tensor in model.state_dict().items()}
    state |= {"t_head.weight": torch.zeros(5, 64), "t_head.bias": torch.zeros(5)}
    path = save(tmp_path, {"epoch": 240, "model": state, "best_acc": np.float64(73.0)},
                "S:resnet8_T:resnet110_cifar100_kdth/resnet8_best.pth")
    checkpoint = open_checkpoint(path)
    assert checkpoint.state.keys() == model.state_dict().keys()  # neither prefixes nor the head
    assert {"t_head.bias", "t_head.weight"} <= checkpoint.raw["model"].keys()
    assert checkpoint.deployment.is_student
    assert checkpoint.accuracy == 73.0
    assert isinstance(checkpoint.accuracy, float)
    assert_same(checkpoint.build(), model)


def test_simkd_file_with_a_projector(tmp_path, model):
    projector = {"transfer.0.weight": torch.zeros(2, 2, 1, 1)}
    path = save(tmp_path, {"model": model.state_dict(), "proj": projector, "best_acc": 71.0},
                "S:resnet8_T:resnet32x4_cifar100_simkd/resnet8_best.pth")
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.raw["proj"]) == list(projector)
    assert_same(checkpoint.build(), model)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.model_s."])
@pytest.mark.parametrize("key", ["state_dict", "net", None])
def test_prefixes_keys_and_bare_state_dicts(tmp_path, model, prefix, key):
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    assert_same(load_model(save(tmp_path, {key: state} if key else state)), model)


def test_files_without_batchnorm_counters(tmp_path, model):
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert_same(load_model(save(tmp_path, state)), model)


def test_half_precision_weights_become_float32(tmp_path, model):
    loaded = load_model(save(tmp_path, {"model": {k: v.half() for k, v in model.state_dict().items()}}))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_resnet18_layout_is_told_by_its_keys(tmp_path):
    for imagenet, stem in ((True, 7), (False, 3)):
        network = create_model("ResNet18", 4, imagenet=imagenet)
        for recorded in ({}, {"imagenet": imagenet}):
            path = save(tmp_path, {"model": network.state_dict(), **recorded}, "ResNet18_vanilla/last.pth")
            checkpoint = open_checkpoint(path)
            assert checkpoint.num_classes == 4
            weight = checkpoint.build().state_dict()["conv1.weight"]
            assert weight.shape[-1] == stem
            assert torch.equal(weight, network.state_dict()["conv1.weight"])


def test_which_file_a_directory_means(tmp_path):
    order = ["last.pth", "ckpt_epoch_100.pth", "ckpt_epoch_20.pth", "resnet8_last.pth", "resnet8_best.pth", "best.pth"]
    for name in order:
        save(tmp_path, {"file": name}, name)
    for name in order:
        assert read_checkpoint(tmp_path)["file"] == name
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="no checkpoint in"):
        read_checkpoint(tmp_path)


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path, zipped):
    path = save(tmp_path, {"model": Evil(tmp_path / "proof")}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match=r"refused: it holds a posix\.system, and loading that could run code"):
        read_checkpoint(path)
    assert not (tmp_path / "proof").exists()


def test_plain_pickles_are_not_run(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"protocol{protocol}.pth"
        path.write_bytes(pickle.dumps({"model": Evil(tmp_path / "proof")}, protocol))
        with pytest.raises(UsageError, match=path.name):
            read_checkpoint(path)
    assert not (tmp_path / "proof").exists()


def test_whole_modules_are_refused(tmp_path, model):
    with pytest.raises(UsageError, match=r"refused: it holds a models.resnet.ResNet"):
        read_checkpoint(save(tmp_path, {"model": model}))


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path, model, zipped):
    path = save(tmp_path, {"model": model.state_dict()}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in (3, 30, 200, 1000, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(UsageError, match=f"{path} is truncated or damaged"):
            read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="is empty"):
        read_checkpoint(path)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "file.pth"
    for content in (b"hello", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n0000", b"\x1f\x8b\x08000"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"is not a checkpoint: give a file that torch.save wrote"):
            read_checkpoint(path)
    with pytest.raises(UsageError, match="holds a list instead of a dict"):
        read_checkpoint(save(tmp_path, [1, 2]))
    with pytest.raises(UsageError, match="holds no weights"):
        open_checkpoint(save(tmp_path, {"epoch": 3}))
    with pytest.raises(UsageError, match=r"no checkpoint at .*missing\.pth"):
        read_checkpoint(tmp_path / "missing.pth")


def test_messages_are_one_line(tmp_path, model):
    (tmp_path / "text.pth").write_text("hello")
    for path in (tmp_path / "text.pth", tmp_path / "none", save(tmp_path, {"model": model})):
        with pytest.raises(UsageError) as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(tmp_path, model, value):
    state = model.state_dict() | {"fc.bias": torch.full((5,), value)}
    with pytest.raises(UsageError, match=r"holds weights that are not finite \(fc.bias\)"):
        load_model(save(tmp_path, {"model": state}, "resnet8/last.pth"))


def test_wrong_architecture_and_class_count(tmp_path, model):
    path = save(tmp_path, {"model": model.state_dict()}, "somewhere/file.pth")
    with pytest.raises(UsageError, match="does not tell which network it holds: name it"):
        load_model(path)
    assert_same(load_model(path, name="resnet8"), model)
    with pytest.raises(UsageError, match="is a resnet8 for 5 classes, not 100"):
        load_model(path, num_classes=100, name="resnet8")
    with pytest.raises(UsageError, match=r"does not fit resnet14 \(layer1.1.conv1.weight is missing\): name the"):
        load_model(path, name="resnet14")
    with pytest.raises(UsageError, match=r"does not fit resnet14x2 \(layer1.0.downsample"):
        load_model(path, name="resnet14x2")
    with pytest.raises(UsageError, match="does not fit vgg8"):
        load_model(path, name="vgg8")
    deep = save(tmp_path, {"model": create_model("resnet14", 5).state_dict()}, "resnet8/last.pth")
    with pytest.raises(UsageError, match=r"layer1.1.conv1.weight is not part of it"):
        load_model(deep)
    wide = save(tmp_path, {"model": create_model("resnet38x2", 5).state_dict()}, "resnet38x4/last.pth")
    with pytest.raises(UsageError, match=r"conv1.weight has shape \(16, 3, 3, 3\) instead of \(32, 3, 3, 3\)"):
        load_model(wide)


def test_unknown_recorded_name_leaves_it_to_the_path_or_the_user(tmp_path, model):
    path = save(tmp_path, {"arch": "resnet999", "model": model.state_dict()}, "resnet8_vanilla/last.pth")
    assert open_checkpoint(path).name == "resnet8"
