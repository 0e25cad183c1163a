"""What each method costs: time per step relative to kd, and peak memory beyond kd's.

    python benchmarks/methods.py --model_s resnet8x4 --model_t resnet32x4 --methods crd,srrl

Steps of kd and of the method alternate in one process, so that a machine whose speed drifts slows both; the ratio is of
neighbouring blocks. Memory is the peak of a process that does nothing but steps of one method, on random tensors, with
a training set of 50,000: resident size on the CPU, what the allocator gave out on a GPU.
"""
import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset import Batch
from distiller_zoo import methods
from helper import cli
from helper.device import choose_device
from helper.fit import make_optimizer
from helper.objective import Objective
from helper.options import student_options
from models import create_model

N_DATA, CLASSES = 50_000, 100


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_s", default="resnet8x4")
    parser.add_argument("--model_t", default="resnet32x4")
    parser.add_argument("--methods", default=",".join(methods), help="comma-separated")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--gpu_id", default="")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)  # the process that measures one method's memory
    opt = parser.parse_args(argv)
    device = choose_device(opt.gpu_id, opt.precision)
    if opt.peak_of:
        print(peak(opt, device))
        return
    print(f"{opt.model_t} -> {opt.model_s}, batch {opt.batch_size}, {N_DATA:,} images, {device.describe()}\n")
    print("| method | ms per step | over kd | memory beyond kd, MB |\n|---|---|---|---|")
    kd, kd_peak = Step("kd", opt, device), peak_in_own_process("kd", opt)
    for name in opt.methods.split(","):
        other = Step(name, opt, device)
        kd(), other()
        pairs = [(kd(), other()) for _ in range(opt.blocks)]
        ms = 1000 * median(b for _, b in pairs) / opt.steps
        memory = peak_in_own_process(name, opt) - kd_peak
        print(f"| {name} | {ms:.1f} | {median(b / a for a, b in pairs):.2f} | {memory:.0f} |", flush=True)


class Step:
    """Calling it runs a block of training steps on one random batch and returns its seconds."""

    def __init__(self, name, opt, device):
        torch.manual_seed(0)
        self.device, self.steps = device, opt.steps
        student, teacher = (create_model(model, CLASSES).to(device.device, memory_format=torch.channels_last)
                            for model in (opt.model_s, opt.model_t))
        options = student_options(["--path_t", "none", "--distill", name, "--model_s", opt.model_s,
                                   "--batch_size", str(opt.batch_size), "--learning_rate", "0.0001"])
        options.image_size, options.num_classes, options.n_data = 32, CLASSES, N_DATA
        options.targets = torch.arange(N_DATA) % CLASSES
        method = methods[name](student, teacher, options).to(device.device)
        self.objective = Objective(student, device, teacher, method, options.gamma, options.alpha, options.beta).train()
        self.optimizer, _ = make_optimizer(self.objective, options)
        images = torch.randn(opt.batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
        index = torch.randperm(N_DATA)[: opt.batch_size]
        self.batch = Batch(*(x.to(device.device) for x in (images, options.targets[index], index)))

    def __call__(self):
        start = time.perf_counter()
        for _ in range(self.steps):
            loss = self.objective(self.batch).total
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        if self.device.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def peak(opt, device):
    """Peak memory in MB of steps of the method opt.peak_of."""
    step = Step(opt.peak_of, opt, device)
    step()
    if device.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def peak_in_own_process(name, opt):
    command = [sys.executable, __file__, "--peak_of", name, "--steps", "3"]
    for flag in ("model_s", "model_t", "batch_size", "gpu_id", "precision"):
        command += [f"--{flag}", str(getattr(opt, flag))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    cli.run(main)
