"""Seeds, and the state of every random generator."""
import random

import numpy as np
import torch


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
