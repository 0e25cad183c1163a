"""--compile: which batches run compiled, and what happens where nothing can. The compiler's front end is real (dynamo),
and code is generated in one test."""
import argparse
import json
import shutil
from functools import partial

import pytest
import torch

import train_student
from dataset import Batch
from errors import UsageError
from helper import compiling
from helper.compiling import compile_objective
from helper.device import choose_device
from helper.frozen import prepare_teacher
from helper.objective import Objective
from models import create_model
from tests.conftest import STEPS, TINY, distilling
from tests.helper.test_frozen import error, outputs, with_statistics
from tests.test_resume import assert_equal, rows

MORE = ["--epochs", "2", "--num_workers", "0", "--save_freq", "0"]


def train(method, teacher_dir, save, *more):
    train_student.main([*distilling(method, teacher_dir), *TINY, *MORE, "--save_dir", str(save), "--name", "run",
                        *more])
    return save / "students" / "run"


@pytest.fixture
def calls(monkeypatch):
    """torch.compile without code generation; the sizes of the batches that ran compiled."""
    real, sizes = torch.compile, []

    def compile_(function, **settings):
        compiled = real(function, backend="eager", dynamic=settings["dynamic"])

        def call(batch, *more):
            sizes.append(len(batch.target))
            return compiled(batch, *more)
        return call

    monkeypatch.setattr(torch, "compile", compile_)
    return sizes


@pytest.mark.parametrize("method", ["kd", "crd"])
def test_compiled_is_the_same(method, calls, teacher_dir, tmp_path):
    plain = train(method, teacher_dir, tmp_path / "plain", "--compile", "off")
    assert not calls
    compiled = train(method, teacher_dir, tmp_path / "compiled", "--compile", "on")
    assert set(calls) == {max(calls)}
    assert 0 < len(calls) <= 2 * 2 * STEPS  # teach and learn, two epochs
    assert_equal(rows(plain), rows(compiled), "metrics")


def test_auto_leaves_short_runs_alone(teacher_dir, tmp_path, monkeypatch, calls):
    short = train("kd", teacher_dir, tmp_path / "short")
    assert json.loads((short / "options.json").read_text())["compile"] == "off"
    monkeypatch.setitem(compiling.EARNS_BACK, "cpu", 1)
    assert not calls
    long = train("kd", teacher_dir, tmp_path / "long")
    assert json.loads((long / "options.json").read_text())["compile"] == "on"
    assert calls


def test_a_compiler_that_fails(teacher_dir, tmp_path, monkeypatch, capsys):
    def broken(graph, inputs):
        raise RuntimeError("no such instruction")

    plain = train("kd", teacher_dir, tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", partial(lambda real, forward, **_: real(forward, backend=broken),
                                                  torch.compile))
    failed = train("kd", teacher_dir, tmp_path / "failed", "--compile", "on")
    assert capsys.readouterr().err.count("note: torch.compile failed") == 1
    assert_equal(rows(plain), rows(failed), "metrics")


def test_what_cannot_be_compiled(teacher_dir, tmp_path):
    with pytest.raises(UsageError, match="--compile on: this method differentiates twice"):
        train("attention_grad", teacher_dir, tmp_path, "--compile", "on")
    with pytest.raises(UsageError, match="--compile on: no batch would be full, there being"):
        train("kd", teacher_dir, tmp_path, "--compile", "on", "--batch_size", "100000")
    assert not (tmp_path / "students").exists()


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_frozen_teachers_code(teacher_dir):
    """The one test that generates code: features of a teacher whose weights are constants, after a step on others."""
    device = choose_device("cpu", "bf16")
    teacher = with_statistics(create_model("resnet8", 10))
    objective = Objective(create_model("resnet8", 10), device, prepare_teacher(teacher, device, 32), alpha=1.0)
    batch = Batch(torch.randn(8, 3, 32, 32), torch.arange(8), torch.arange(8))
    expected = objective.teach(batch)
    compile_objective(objective, argparse.Namespace(compile="on", batch_size=8, n_data=8), device, 1)
    found = objective.teach(batch)
    assert objective.teach.compiled is not None  # else it fell back
    plain = outputs(teacher, batch.images)
    assert len(found.feats) == len(expected.feats)
    assert error([*found.feats, found.logits], plain) < 1.5 * error([*expected.feats, expected.logits], plain)
