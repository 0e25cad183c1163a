"""torch.compile for the objective: when it is worth its start, and what is left to the uncompiled path."""
import logging
import shutil
import sys
from contextlib import nullcontext

import torch
import torch._functorch.config as functorch_config

from errors import UsageError

# Steps after which compiling has earned its time back. On 2 CPU cores it takes half a minute at most, and then saves 4
# to 8 ms a step (results/speed.md). On a GPU "auto" never compiles: CUDA graphs of these losses have not run yet.
EARNS_BACK = {"cpu": 10_000}
GRAPH_WARM_UPS = 2  # calls after the first in which CUDA graphs are recorded


def compile_objective(objective, opt, device, loader):
    """Have `objective` run compiled on full batches, if --compile says so. Returns "on" or "off".

    Shapes are static: a last batch that is smaller runs as it would without compiling, and so does all where the
    compiler fails, with a note. On a GPU the compiled step is a CUDA graph. The frozen teacher's weights are not made
    constants (Inductor's freezing): on a CPU that gained nothing measurable over the prepared teacher.

    Args:
        objective: a module, batch -> Losses; its parameters, their names and its state stay as they are.
        loader: of the training images; "auto" compiles a run of as many steps as earn the time back.

    Raises:
        UsageError: --compile on for what cannot be compiled.
    """
    obstacle = _obstacle(objective, device, opt.batch_size, len(loader.images))
    long_enough = opt.epochs * len(loader) >= EARNS_BACK.get(device.device.type, float("inf"))
    if opt.compile == "off" or (opt.compile == "auto" and not (long_enough and obstacle is None)):
        return "off"
    if obstacle:
        raise UsageError(f"--compile on: {obstacle}; leave it out")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it says where there is no CUDA
    objective.forward = Compiled(objective.forward, opt.batch_size, device.device.type == "cuda")
    return "on"


def _obstacle(objective, device, batch_size, n_data):
    """Why the objective cannot be compiled, or None."""
    if n_data < batch_size:
        return f"no batch would be full, there being {n_data} images for --batch_size {batch_size}"
    if getattr(objective, "input_gradient", False):
        return "this method differentiates twice, which torch.compile does not"
    if len(device.device_ids) > 1:
        return "several GPUs (DataParallel) copy the networks in each step"
    if device.device.type == "cuda":
        from torch.utils._triton import has_triton
        return None if has_triton() else "there is no Triton for this GPU"
    return None if shutil.which("g++") or shutil.which("clang++") else "there is no C++ compiler (g++) here"


class Compiled:
    """A forward function that is compiled for batches of `batch_size` images.

    Attributes:
        compiled: None once the compiler has failed.
    """

    def __init__(self, forward, batch_size, graphs):
        self.forward, self.batch_size, self.graphs = forward, batch_size, graphs
        self.compiled = torch.compile(forward, dynamic=False, mode="reduce-overhead" if graphs else None)
        self.on_trial = 1 + GRAPH_WARM_UPS if graphs else 1  # calls that may still fail

    def __call__(self, batch, update=0):
        if update or self.compiled is None or len(batch.target) != self.batch_size:
            return self.forward(batch, update)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the outputs of the step before may be overwritten
        if not self.on_trial:
            return self.compiled(batch)
        try:
            with _backward_compiled_at_once():
                losses = self.compiled(batch)
            self.on_trial -= 1
            return losses
        except Exception as error:  # whatever a compiler, or a graph's recording, stumbles over
            reason = str(error).strip().partition("\n")[0]
            print(f"note: torch.compile failed ({type(error).__name__}: {reason}): going on without it",
                  file=sys.stderr)
            self.compiled = None
            return self.forward(batch)


def _backward_compiled_at_once():
    """A context in which compiling a forward pass compiles its backward pass too, so that both fail in one place.

    PyTorch would wait for the first backward(). Where it has no such setting nothing is changed.
    """
    if hasattr(functorch_config, "force_non_lazy_backward_lowering"):
        return functorch_config.patch(force_non_lazy_backward_lowering=True)
    return nullcontext()
