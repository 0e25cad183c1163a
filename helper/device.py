"""Where the networks run and in which precision; seeds."""
import os
import sys
from contextlib import nullcontext
from typing import NamedTuple

import torch

from errors import UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Device(NamedTuple):
    """The device of parameters and losses, the GPUs that share a batch (DataParallel), and the networks' precision."""

    device: torch.device
    device_ids: list[int]
    precision: str  # a key of PRECISIONS

    def autocast(self):
        """Context in which a network's convolutions and products run in `precision`."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision])

    def describe(self):
        """One line for people: the hardware, the precision and the threads or GPUs."""
        if self.device.type == "cuda":
            what = ", ".join(torch.cuda.get_device_name(i) for i in self.device_ids)
        else:
            what = f"CPU, {torch.get_num_threads()} threads"
        return f"{what}, {self.precision}, torch {torch.__version__}"


def choose_device(gpu_id, precision, deterministic=False):
    """The device that `--gpu_id` and `--precision` ask for; `deterministic`: cuBLAS made fit for seed_everything's.

    gpu_id: '' (the first GPU, else the CPU), 'cpu', or numbers such as '0' or '0,1'. Published commands carry
    `--gpu_id 0`, so without CUDA a number means the CPU, with a notice.

    Raises:
        UsageError: not a number, a GPU that is not there, fp16 on the CPU.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when cuBLAS is first used
    ids = _gpu_numbers(gpu_id)
    if ids and not torch.cuda.is_available():
        print(f"no CUDA device here: --gpu_id {gpu_id} runs on the CPU", file=sys.stderr)
        ids = []
    if ids and max(ids) >= torch.cuda.device_count():
        raise UsageError(f"--gpu_id {gpu_id}: this machine has {torch.cuda.device_count()} GPU(s), numbered from 0")
    if ids:
        torch.cuda.set_device(ids[0])
    device = torch.device(f"cuda:{ids[0]}" if ids else "cpu")
    if precision == "auto":
        precision = "bf16" if _bf16_is_fast(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU: use bf16 or fp32 on the CPU")
    return Device(device, ids, precision)


def _gpu_numbers(gpu_id):
    if gpu_id == "cpu":
        return []
    if not gpu_id:
        return [0] if torch.cuda.is_available() else []
    try:
        ids = [int(part) for part in gpu_id.split(",")]
    except ValueError:
        ids = [-1]
    if min(ids) < 0 or len(set(ids)) < len(ids):
        raise UsageError(f"--gpu_id {gpu_id}: give GPU numbers such as 0 or 0,1, or cpu")
    return ids


def _bf16_is_fast(device):
    """Whether the hardware multiplies bfloat16 itself; where it is emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8  # Ampere
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, so not relied upon
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
