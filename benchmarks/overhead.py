"""What the loop costs: train_epoch with its loader, meters and progress, against the same steps on fixed tensors.

    python benchmarks/overhead.py --model_s resnet8 --model_t resnet20

Blocks of both kinds alternate in one process, so that a machine whose speed drifts slows both; the ratio is of each
neighbouring pair. After each block of the loop come the checkpoint, the log and TensorBoard, as after an epoch.
"""
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset import ArrayImages, Data, make_loader
from distiller_zoo import methods
from helper import cli
from helper.checkpoint import Training
from helper.device import choose_device
from helper.fit import make_optimizer
from helper.loop import StopSignal, train_epoch
from helper.meters import Meters
from helper.objective import Objective
from helper.run import Run
from models import create_model


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_s", default="resnet8")
    parser.add_argument("--model_t", default="resnet20")
    parser.add_argument("--distill", default="kd")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="of a block")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--gpu_id", default="")
    parser.add_argument("--precision", default="auto")
    opt = parser.parse_args(argv)
    device = choose_device(opt.gpu_id, opt.precision)
    loop, fixed = both(opt, device)
    loop(), fixed()  # warm-up
    pairs = [(loop(), fixed()) for _ in range(opt.blocks)]
    ratios = [loop_time / fixed_time for loop_time, fixed_time in pairs]
    per_step = 1000 / opt.steps
    print(f"{opt.distill} {opt.model_t} -> {opt.model_s}, batch {opt.batch_size}, {device.describe()}")
    print(f"loop {per_step * median(a for a, _ in pairs):.2f} ms per step, fixed tensors "
          f"{per_step * median(b for _, b in pairs):.2f} ms; ratio {median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f} over {opt.blocks} pairs of {opt.steps} steps)")


def both(opt, device):
    """Two functions that run a block and return its seconds: the whole loop, and the bare steps."""
    n = opt.steps * opt.batch_size
    images = ArrayImages(torch.randint(256, (n, 32, 32, 3), dtype=torch.uint8), torch.randint(100, (n,)))
    data = Data("noise", [str(k) for k in range(100)], 32, (0.5,) * 3, (0.25,) * 3, True, images, images, images)
    loader = make_loader(data, images, kind="device", batch_size=opt.batch_size, train=True, device=device.device)
    student, teacher = (create_model(name, 100).to(device.device, memory_format=torch.channels_last)
                        for name in (opt.model_s, opt.model_t))
    facts = SimpleNamespace(image_size=32, num_classes=100, n_data=n, targets=images.targets, learning_rate=0.01,
                            momentum=0.9, weight_decay=5e-4, lr_decay_epochs=[1000], lr_decay_rate=0.1, nesterov=0,
                            overwrite=False, save_freq=0)
    cls = methods[opt.distill]
    method = cls(student, teacher, facts).to(device.device)
    objective = Objective(student, device, teacher, method, *cls.weights[:3])
    optimizer, scheduler = make_optimizer(objective, facts)
    scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
    meters, stop = Meters(device.device), StopSignal()
    batch = next(iter(loader))

    run = Run(tempfile.mkdtemp(), facts, {})
    run.training, run.best_by = Training(objective, optimizer, scheduler, scaler, loader, meters), "test_acc"

    def loop():
        start = time.perf_counter()
        train_epoch(objective, run.training, stop, title="block", epochs_left=0, print_freq=100)
        run.finish_epoch({"epoch": len(run.history) + 1, "test_acc": len(run.history), **meters.read()})
        return time.perf_counter() - start

    def fixed():
        objective.train()
        start = time.perf_counter()
        for _ in range(opt.steps):
            loss = objective(batch).total
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return loop, fixed


if __name__ == "__main__":
    cli.run(main)
