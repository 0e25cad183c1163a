"""Checks that need a GPU, without pytest: `python benchmarks/gpu_checks.py` runs all; tests/test_gpu.py runs the same.

Each check is a function of a directory, into which it may write, and raises an error if it fails. The data are digits.
"""
import io
import os
import signal
import sys
import tempfile
import traceback
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_student
import train_teacher
from benchmarks.speed import Bench
from crd import CRDLoss, NegativeSampler
from dataset import load_dataset, make_loader
from distiller_zoo import methods
from helper.device import Device, choose_device
from helper.frozen import prepare_teacher
from helper.networks import NetworkOnDevice
from helper.progress import Progress
from models import create_model, read_checkpoint

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for check_resume's --deterministic; read at first use
CPU = Device(torch.device("cpu"), [], "fp32")
STEPS_BEFORE_KILL = 10


def train(directory, *more, teacher=None):
    """Runs a short training on digits in `directory`. Returns the checkpoint: a student's if `teacher` is given.

    more: further arguments of the command line.
    """
    common = ["--dataset", "digits", "--epochs", "2", "--save_dir", str(directory), "--name", "run", *more]
    if teacher is None:
        train_teacher.main([*common, "--model", "resnet20"])
        return read_checkpoint(Path(directory, "teachers", "run"))
    train_student.main([*common, "--model_s", "resnet8", "--path_t", str(teacher), "--skip_validation"])
    return read_checkpoint(Path(directory, "students", "run"))


def close(a, b, tolerance):
    """Raises AssertionError unless a is within `tolerance` of b, relative to b's norm."""
    a, b = a.double().cpu(), b.double().cpu()
    error = float((a - b).norm() / b.norm().clamp(min=1e-12))
    assert error <= tolerance, f"off by {error:.2g}, more than {tolerance:.2g}"


def losses_on(device, name):
    """One step of method `name`: the loss (), and the gradient of all the student's parameters, flat (N,)."""
    opt = SimpleNamespace(batch_size=16, steps=1, compile="off", workers=0)
    torch.backends.cudnn.allow_tf32 = False
    bench = Bench("resnet14", "resnet8", name, opt, CPU)
    objective, _ = bench.make(CPU)
    objective.to(device.device)
    objective.network.device = device
    objective.eval()  # BatchNorm statistics of 16 images would magnify rounding
    loader = make_loader(bench.data, bench.data.train, kind="device", batch_size=16, train=False, device=device.device)
    losses = objective(next(iter(loader)))
    losses.total.backward()
    gradients = [p.grad.flatten().cpu() for p in objective.student.parameters() if p.grad is not None]
    return losses.total.detach(), torch.cat(gradients)


def check_every_loss_equals_the_cpus(directory):
    """Every loss without random draws, and its gradient, equals the CPU's, in float32."""
    gpu = choose_device("", "fp32")
    for name in methods:
        if "crd" in name:
            continue  # draws its negatives; see check_crd_on_device
        for found, expected in zip(losses_on(gpu, name), losses_on(CPU, name), strict=True):
            try:
                close(found, expected, 2e-2)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


def check_crd_on_device(directory):
    """Negatives are distinct, of other classes and near uniform. The loss on equal negatives equals the CPU's."""
    torch.manual_seed(0)
    targets = torch.arange(1000) % 10
    index = torch.arange(64)
    sampler = NegativeSampler(targets, 500).cuda()
    drawn = sampler(index.cuda(), targets[index].cuda()).cpu()
    assert (drawn[:, 0] == index).all()
    assert all(len(set(row.tolist())) == 500 for row in drawn[:, 1:])
    assert (targets[drawn[:, 1:]] != targets[index][:, None]).all()
    counts = torch.zeros(1000).index_add_(0, drawn[:, 1:].flatten(), torch.ones(64 * 500))
    assert counts.max() < 3 * counts.mean()
    loss, f_s, f_t = CRDLoss(64, 64, 1000, nce_k=500), torch.randn(64, 64), torch.randn(64, 64)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    expected = loss(f_s, f_t, index, drawn).detach()
    loss.load_state_dict(before)
    close(loss.cuda()(f_s.cuda(), f_t.cuda(), index.cuda(), drawn.cuda()).detach(), expected, 1e-3)


def check_precisions(directory):
    """bf16 and fp16 (with its scaler) reach float32's accuracy, within 15 points."""
    scores = {p: train(Path(directory, p), "--precision", p)["metrics"]["test_acc"] for p in ("fp32", "bf16", "fp16")}
    assert min(scores.values()) > 50, scores
    assert max(scores.values()) - min(scores.values()) < 15, scores


def check_prepared_teacher(directory):
    """The prepared teacher, folded and in bf16, is about as close to float32 as autocast is."""
    device = choose_device("", "bf16")
    for name in ("resnet32x4", "wrn_40_2", "vgg13", "MobileNetV2", "ShuffleV1", "ResNet50"):
        torch.manual_seed(0)
        teacher = create_model(name, 100).cuda().to(memory_format=torch.channels_last).eval().requires_grad_(False)
        images, run = torch.randn(64, 3, 32, 32, device="cuda"), NetworkOnDevice(device)
        with torch.no_grad():
            exact, plain = teacher(images), run(teacher, images)
            fast = run(prepare_teacher(teacher, device, 32), images)
        close(fast, exact, max(0.02, 2 * float((plain.float() - exact).norm() / exact.norm())))


def check_compiled(directory):
    """kd, crd, simkd and kdsvd compile without falling back, and their training loss is that of the uncompiled step."""
    train(Path(directory, "t"))
    teacher = Path(directory, "t", "teachers", "run")
    for name in ("kd", "crd", "simkd", "kdsvd"):
        with redirect_stderr(io.StringIO()) as said:
            scores = {switch: train(Path(directory, name, switch), "--distill", name, "--compile", switch,
                                    teacher=teacher) for switch in ("off", "on")}
        off, on = (scores[switch]["metrics"] for switch in ("off", "on"))
        assert "torch.compile failed" not in said.getvalue(), f"{name} was not compiled: {said.getvalue()[-500:]}"
        assert abs(off["train_loss"] - on["train_loss"]) < 0.1 * off["train_loss"], (name, off, on)


def check_resume(directory):
    """With --deterministic, a run stopped in the middle of the first epoch and resumed gives the same bits."""
    whole = train(Path(directory, "whole"), "--deterministic")
    real, calls = Progress.advance, []

    def advance(self, *args):
        real(self, *args)
        calls.append(1)
        if len(calls) == STEPS_BEFORE_KILL:
            os.kill(os.getpid(), signal.SIGTERM)

    Progress.advance = advance
    try:
        train(Path(directory, "parts"), "--deterministic")
        raise AssertionError("the signal did not stop the run")
    except SystemExit:
        pass
    finally:
        Progress.advance = real
    parts = train(Path(directory, "parts"), "--deterministic")
    for key, value in whole["model"].items():
        assert torch.equal(value.cpu(), parts["model"][key].cpu()), key


def check_data_parallel(directory):
    """Two devices give one device's logits. With one GPU, only the wrapper around one device is checked."""
    torch.manual_seed(0)
    model, images = create_model("resnet8", 10).cuda().eval(), torch.randn(32, 3, 32, 32, device="cuda")
    ids = list(range(min(2, torch.cuda.device_count())))
    if len(ids) == 1:
        print("        (one GPU: two were not tried)")
    several = NetworkOnDevice(Device(torch.device("cuda:0"), ids, "fp32"))
    with torch.no_grad():
        close(several(model, images), model(images), 1e-4)


def check_loader(directory):
    """The device loader gives the same batches as on the CPU, to the bit."""
    data = load_dataset("digits", "data", cache_dir=str(directory))
    where = [torch.device(name) for name in ("cuda", "cpu")]
    loaders = [make_loader(data, data.train, kind="device", batch_size=64, train=True, seed=3, device=device)
               for device in where]
    for on_gpu, on_cpu in zip(*loaders, strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(on_gpu, on_cpu, strict=True))


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


def main():
    if not torch.cuda.is_available():
        print("no CUDA device: nothing is checked")
        return 0
    failed = 0
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as directory:
            try:
                check(directory)
                print(f"passed  {check.__name__}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED  {check.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
