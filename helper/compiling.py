"""torch.compile for the objective: when it is worth its start, and what is left to the uncompiled path."""
import shutil
import sys

import torch

from errors import UsageError

EARNS_BACK = 20_000  # steps: a cautious bound, see results/speed.md


def compile_objective(objective, opt, device, steps):
    """Have `objective` run compiled on full batches, if --compile says so; opt.compile becomes "on" or "off".

    Shapes are static: a last batch that is smaller runs as it would without compiling, and so does all where the
    compiler fails, with a note. On a GPU the compiled step is a CUDA graph.

    Args:
        objective: a module, batch -> Losses; its parameters, their names and its state stay as they are.
        steps: of the whole run; "auto" compiles one that lasts long enough to earn the time back.

    Raises:
        UsageError: --compile on for what cannot be compiled.
    """
    obstacle = _obstacle(objective, device)
    if opt.compile == "auto":
        opt.compile = "on" if steps >= EARNS_BACK and obstacle is None else "off"
    if opt.compile == "on":
        if obstacle:
            raise UsageError(f"--compile on: {obstacle}; leave it out")
        objective.forward = _Compiled(objective.forward, opt.batch_size, device.device.type == "cuda")


def _obstacle(objective, device):
    """Why the objective cannot be compiled, or None."""
    if objective.method is not None and objective.method.input_gradient:
        return "this method differentiates twice, which torch.compile does not"
    if len(device.device_ids) > 1:
        return "several GPUs (DataParallel) copy the networks in each step"
    if device.device.type == "cuda":
        from torch.utils._triton import has_triton
        return None if has_triton() else "there is no Triton for this GPU"
    return None if shutil.which("g++") or shutil.which("clang++") else "there is no C++ compiler (g++) here"


class _Compiled:
    """A forward function that is compiled for batches of `batch_size` images."""

    def __init__(self, forward, batch_size, graphs):
        self.forward, self.batch_size, self.graphs = forward, batch_size, graphs
        self.compiled = torch.compile(forward, dynamic=False, mode="reduce-overhead" if graphs else None)
        self.ran = False

    def __call__(self, batch):
        if self.compiled is None or len(batch.target) != self.batch_size:
            return self.forward(batch)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the outputs of the step before may be overwritten
        try:
            losses = self.compiled(batch)
        except Exception as error:  # whatever a compiler, or a graph's first recording, stumbles over
            if self.ran:
                raise
            reason = str(error).strip().partition("\n")[0]
            print(f"note: torch.compile failed ({type(error).__name__}: {reason}): going on without it",
                  file=sys.stderr)
            self.compiled = None
            losses = self.forward(batch)
        self.ran = True
        return losses
