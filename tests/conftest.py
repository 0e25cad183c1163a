"""Shared fixtures: a few digits as a data set, a briefly trained teacher, the command line."""
import copy
import functools
import json
import os
import signal
import sys

# One thread each, in the processes that tests start too: tensors here are tiny, and on a busy machine two threads that
# wait for each other take many times longer. Before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import dataclasses

import pytest
import torch

import evaluate
import train_heads
import train_teacher
from cli import parser as cli
from dataset import dataset_dict, digits
from distiller_zoo import get_method

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with Ctrl-C ignored

TINY = ["--dataset", "tiny", "--epochs", "1", "--batch_size", "32", "--precision", "fp32"]
STEPS = 5  # of an epoch
BRIEF = {"--init_epochs": "1", "--nce_k": "16"}  # for the methods that have them: short first stages, few negatives
# Of a method whose heads cost twenty times as much as the student.
SMALL = {"mhkd": ["--image_size", "8", "--head_stages", "2"]}


def build_tiny(data_dir, image_size, cache_dir):
    """150 training and 100 test images of digits at 16x16, for runs that take a fraction of a second."""
    return _tiny(image_size or 16)


@functools.cache
def _tiny(image_size):
    data = digits.build(None, image_size, None)
    train, test = data.train.subset(torch.arange(150)), data.test.subset(torch.arange(100))
    return dataclasses.replace(data, name="tiny", train=train, val=test, test=test)


dataset_dict["tiny"] = build_tiny


def pytest_collection_modifyitems(items):
    """Tests marked gpu are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory):
    """Directory of a resnet8 trained for one epoch on a few digits, with flat heads, and others for tofd."""
    save = tmp_path_factory.mktemp("teacher")
    train_teacher.main([*TINY, "--model", "resnet8", "--save_dir", str(save), "--name", "resnet8_vanilla"])
    directory = save / "teachers" / "resnet8_vanilla"
    for more in ([], ["--head_type", "sepconv"]):
        train_heads.main([*TINY, "--path_t", str(directory), "--save_dir", str(save), "--skip_validation",
                          "--learning_rate", "0.001", *more])
    return directory


def recorded(directory):
    """What a run's options.json says: its options and facts in one dict."""
    content = json.loads((directory / "options.json").read_text())
    return content["options"] | content["facts"]


def on_other_data(raw, **changed):
    """A checkpoint's dict, as if its run had been on data of another name or mean."""
    raw = copy.deepcopy(dict(raw))
    raw["record"]["facts"]["data"] |= changed
    return raw


def distilling(name, teacher_dir):
    """Arguments of train_student.py for one short epoch of method `name` on the tiny data."""
    args = [*TINY, "--distill", name, "--model_s", "resnet8", "--skip_validation", *SMALL.get(name.split("+")[0], [])]
    for option in get_method(name).options:
        args += [word for flag in option.flags if flag in BRIEF for word in (flag, BRIEF[flag])]
    if get_method(name).needs_teacher:
        args += ["--path_t", str(teacher_dir)]
    return args


@pytest.fixture
def command(monkeypatch, capfd):
    """command(script_module, *args) -> (exit status, standard output, standard error), as a shell would see them."""

    def call(module, *args):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.run(module.main)
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture
def refused(command, tmp_path):
    """refused(script, *args): the message of a refusal that wrote nothing."""

    def call(script, *args):
        save = tmp_path / "refused"
        status, _, err = command(script, *args, *([] if script is evaluate else ["--save_dir", save]))
        assert status == 2, err
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert not save.exists()
        return err

    return call
