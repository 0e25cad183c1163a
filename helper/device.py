"""Where the networks run and in which precision; seeds."""
import os
import random
import sys
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch

from errors import UsageError
from helper.allocator import keep_freed_memory

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
    if device.type == "cpu":
        keep_freed_memory()
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


def seed_everything(seed, deterministic):
    """Seed every random generator; with `deterministic`, refuse GPU kernels whose result depends on timing."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        torch.use_deterministic_algorithms(True)


def random_state():
    """The state of every global random generator, as tensors and plain values that torch.load(weights_only) reads."""
    version, state, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": [version, list(state), gauss], "torch": torch.get_rng_state(), "cuda": cuda,
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached]}


def set_random_state(state):
    """Undo `random_state`. GPU generators are restored as far as this machine has as many GPUs."""
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
