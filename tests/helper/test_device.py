"""What --gpu_id and --precision choose."""
import pytest
import torch

from errors import UsageError
from helper import device as module
from helper.device import choose_device


@pytest.mark.parametrize("gpu_id", ["x", "-1", "0,0", "0;1"])
def test_gpu_ids_that_are_none(gpu_id):
    with pytest.raises(UsageError, match="give GPU numbers such as 0 or 0,1, or cpu"):
        choose_device(gpu_id, "auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_published_commands_run_without_a_gpu(capsys):
    assert choose_device("0", "fp32").device == torch.device("cpu")
    assert "runs on the CPU" in capsys.readouterr().err


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"this machine has 1 GPU\(s\)"):
        choose_device("0,1", "fp32")


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        choose_device("cpu", "fp16")


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_where_the_hardware_has_it(monkeypatch, fast, precision):
    monkeypatch.setattr(module, "_bf16_is_fast", lambda device: fast)
    assert choose_device("cpu", "auto").precision == precision


def test_bf16_autocast_is_entered():
    with choose_device("cpu", "bf16").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with choose_device("cpu", "fp32").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
