"""--compile: which batches run compiled, and what happens where nothing can. The compiler's front end is real (dynamo,
without code generation, which takes half a minute)."""
import json
from functools import partial

import pytest
import torch

import train_student
from errors import UsageError
from helper import compiling
from tests.conftest import STEPS, TINY, distilling
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
    assert json.loads((short / "options.json").read_text())["compile"] == "off"
    monkeypatch.setattr(compiling, "EARNS_BACK", 1)
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
    assert "note: torch.compile failed" in capsys.readouterr().err
    assert_equal(rows(plain), rows(failed), "metrics")


def test_what_cannot_be_compiled(teacher_dir, tmp_path):
    with pytest.raises(UsageError, match="--compile on: this method differentiates twice"):
        train("attention_grad", teacher_dir, tmp_path, "--compile", "on")
    assert not (tmp_path / "students").exists()
