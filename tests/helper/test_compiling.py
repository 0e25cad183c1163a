"""--compile: which batches run compiled, and what happens where nothing can. The compiler's front end is real (dynamo),
and code is generated in one test."""
import json
import shutil
from functools import partial

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

import train_student
from dataset import Batch
from distiller_zoo import get_method, make_terms
from errors import UsageError
from helper import compiling
from helper.compiling import compile_objective
from helper.device import choose_device
from helper.frozen import prepare_teacher
from helper.objective import Objective
from models import create_model
from tasks import CLASSIFICATION
from tests.conftest import STEPS, TINY, distilling
from tests.helper.test_frozen import error, with_statistics
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

    def compile_(forward, **settings):
        compiled = real(forward, backend="eager", dynamic=settings["dynamic"])

        def call(batch):
            sizes.append(len(batch.target))
            return compiled(batch)
        return call

    monkeypatch.setattr(torch, "compile", compile_)
    return sizes


@pytest.mark.parametrize("method", ["kd", "crd"])
def test_compiled_is_the_same(method, calls, teacher_dir, tmp_path):
    plain = train(method, teacher_dir, tmp_path / "plain", "--compile", "off")
    assert not calls
    compiled = train(method, teacher_dir, tmp_path / "compiled", "--compile", "on")
    assert set(calls) == {max(calls)}
    assert 0 < len(calls) <= 2 * STEPS
    assert_equal(rows(plain), rows(compiled), "metrics")


def test_auto_leaves_short_runs_alone(teacher_dir, tmp_path, monkeypatch, calls):
    short = train("kd", teacher_dir, tmp_path / "short")
    assert json.loads((short / "options.json").read_text())["facts"]["resolved"]["compile"] == "off"
    monkeypatch.setitem(compiling.EARNS_BACK, "cpu", 1)
    assert not calls
    long = train("kd", teacher_dir, tmp_path / "long")
    assert json.loads((long / "options.json").read_text())["facts"]["resolved"]["compile"] == "on"
    assert calls


def broken(graph, inputs):
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize("backend", [broken, aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=broken)],
                         ids=["forward", "backward"])
def test_a_compiler_that_fails(teacher_dir, tmp_path, monkeypatch, capsys, backend):
    plain = train("kd", teacher_dir, tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", partial(lambda real, forward, **_: real(forward, backend=backend),
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


class OneBatch(list):
    """A loader of one batch of eight images."""

    images = range(8)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_generated_code():
    """The one test that generates code: the loss, and its gradient, of a batch."""
    device = choose_device("cpu", "fp32")
    teacher = with_statistics(create_model("resnet8", 10))
    student, teacher = create_model("resnet8", 10), prepare_teacher(teacher, device, 32)
    method, _ = get_method("kd").build(student, teacher, image_size=32, num_classes=10)
    opt = get_method("kd").defaults(gamma=1.0, alpha=1.0, compile="on", batch_size=8, epochs=1)
    objective = Objective(student, device, make_terms(CLASSIFICATION.criterion, opt, method), teacher, method)
    batch = Batch(torch.randn(8, 3, 32, 32), torch.arange(8), torch.arange(8))

    def results():
        objective.zero_grad()
        total = objective(batch).total
        total.backward()
        return [total.detach(), *(p.grad for p in objective.trained_parameters())]

    expected = results()
    assert compile_objective(objective, opt, device, OneBatch()) == "on"
    assert error(results(), expected) < 1e-3
    assert error(results(), expected) < 1e-3
    assert objective.forward.compiled is not None  # else it fell back
