"""torch.compile for the objective: when it is worth its start, and what is left to the uncompiled path."""
import logging
import shutil
import sys

import torch

from errors import UsageError

# Steps after which compiling has earned its time back. On 2 CPU cores it takes 10 to 25 s, and then saves 5 to 15 ms a
# step (results/speed.md); that of a GPU was never measured.
EARNS_BACK = {"cpu": 5_000, "cuda": 20_000}


def compile_objective(objective, opt, device, steps):
    """Have `objective` run compiled on full batches, if --compile says so; opt.compile becomes "on" or "off".

    On a GPU the whole is one CUDA graph. On the CPU `teach` is compiled apart from `learn`: the frozen network alone,
    whose weights are then constants, laid out as its convolutions want them and fused with what follows.

    Shapes are static: a last batch that is smaller runs as it would without compiling, and so does all where the
    compiler fails, with a note.

    Args:
        objective: a module, batch -> Losses, which is learn(batch, teach(batch)) if it has a teacher; its parameters,
            their names and its state stay as they are.
        steps: of the whole run; "auto" compiles one that lasts long enough to earn the time back.

    Raises:
        UsageError: --compile on for what cannot be compiled.
    """
    obstacle = _obstacle(objective, device, opt)
    if opt.compile == "auto":
        opt.compile = "on" if steps >= EARNS_BACK[device.device.type] and obstacle is None else "off"
    if opt.compile == "off":
        return
    if obstacle:
        raise UsageError(f"--compile on: {obstacle}; leave it out")
    if device.device.type == "cuda":
        objective.forward = _Compiled(objective.forward, opt.batch_size, mode="reduce-overhead")
    else:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it says that there is no CUDA
        objective.teach = _Compiled(objective.teach, opt.batch_size, options={"freezing": True})
        objective.learn = _Compiled(objective.learn, opt.batch_size, unless=objective.teach)


def _obstacle(objective, device, opt):
    """Why the objective cannot be compiled, or None."""
    if opt.n_data < opt.batch_size:
        return f"no batch would be full, there being {opt.n_data} images for --batch_size {opt.batch_size}"
    if objective.method is not None and objective.method.input_gradient:
        return "this method differentiates twice, which torch.compile does not"
    if len(device.device_ids) > 1:
        return "several GPUs (DataParallel) copy the networks in each step"
    if device.device.type == "cuda":
        from torch.utils._triton import has_triton
        return None if has_triton() else "there is no Triton for this GPU"
    return None if shutil.which("g++") or shutil.which("clang++") else "there is no C++ compiler (g++) here"


class _Compiled:
    """A function of a batch, and of more, that is compiled for batches of `batch_size` images.

    unless: another one, without which this is not compiled either once the compiler has failed.
    """

    def __init__(self, function, batch_size, unless=None, **settings):
        self.function, self.batch_size, self.unless = function, batch_size, unless
        self.compiled = torch.compile(function, dynamic=False, **settings)
        self.graphs = "mode" in settings
        self.ran = False

    def __call__(self, batch, *more):
        if self.unless is not None and self.unless.compiled is None:
            self.compiled = None
        if self.compiled is None or len(batch.target) != self.batch_size:
            return self.function(batch, *more)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the outputs of the step before may be overwritten
        try:
            result = self.compiled(batch, *more)
        except Exception as error:  # whatever a compiler, or a graph's first recording, stumbles over
            if self.ran:
                raise
            reason = str(error).strip().partition("\n")[0]
            print(f"note: torch.compile failed ({type(error).__name__}: {reason}): going on without it",
                  file=sys.stderr)
            self.compiled = None
            result = self.function(batch, *more)
        self.ran = True
        return result
