"""Compares the fast path with the plain one (plain.py) and with its own ceiling: images per second of training.

    python benchmarks/speed.py --pair resnet32x4:resnet8x4 --method kd,crd
    python benchmarks/speed.py --pair resnet20:resnet8 --all --json results/speed.json

Blocks of all paths alternate in one process, so that a change of the machine's speed affects all paths equally; ratios
are medians over the rounds. The fast path is what train_student.py runs, including loader, meters and progress. The
ceiling is the same forward and backward passes on one fixed batch, and nothing else. "time over kd" is the time of a
step relative to kd's, in rounds of both. First stages are not timed.
Memory is the peak in a separate process for each path: resident size on the CPU, memory allocated by PyTorch on a GPU.

Images are noise. CRD's bank has 50,000 entries; a block uses --steps times --batch_size images.
"""
import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.plain import PlainPath
from cli import parser as cli
from cli.options import student_options
from dataset import ArrayImages, Data, make_loader
from distiller_zoo import get_method, make_terms, methods
from distiller_zoo.crd import CRDMethod
from distiller_zoo.options import PATH_HEADS
from errors import UsageError
from flags import number
from helper.allocator import keep_freed_memory
from helper.compiling import Compiled, compile_objective
from helper.device import PRECISIONS, choose_device
from helper.frozen import prepare_teacher
from helper.loop import train_epoch
from helper.meters import Meters
from helper.objective import Objective
from helper.optim import constant, make_optimizer
from helper.seeds import seed_everything
from helper.state import Training
from helper.stop import StopSignal
from models import check_name, create_model, feature_shapes
from models.heads import HEAD_TYPES, Heads
from models.probe import weights_hash
from models.tuned import heads_name, save_heads
from runs.directory import Run
from runs.record import RunRecord
from tasks import CLASSIFICATION as task

N_DATA, CLASSES, SIZE = 50_000, 100, 32
COLUMNS = ("pair", "method", "compiled", "plain img/s", "fast img/s", "fast over plain", "fast over ceiling",
           "time over kd", "plain MB", "fast MB")


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", type=pair_list, default="resnet32x4:resnet8x4", metavar="T:S,...",
                        help="teachers and students")
    parser.add_argument("--method", type=method_list, default="kd,crd", metavar="METHOD,...")
    parser.add_argument("--all", action="store_true", help="every method")
    parser.add_argument("--skip_plain", action="store_true", help="the fast path and its ceiling only")
    parser.add_argument("--skip_memory", action="store_true", help="no processes to measure memory")
    count = number(int, at_least=1)
    parser.add_argument("--batch_size", type=count, default=64)
    parser.add_argument("--steps", type=count, default=20, help="of a block")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--workers", type=number(int, at_least=0), default=2,
                        help="loader processes of the plain path")
    parser.add_argument("--compile", choices=["on", "off"], default="off",
                        help="of the fast path and its ceiling; what cannot be compiled is run without, with a note")
    parser.add_argument("--gpu_id", default="")
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto", help="of the fast path")
    parser.add_argument("--json", type=file_in_a_folder, metavar="FILE", help="write the table there too")
    parser.add_argument("--profile", type=file_in_a_folder, metavar="FILE",
                        help="write a trace of one fast block, for chrome://tracing")
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)  # the process that measures one path's memory
    opt = parser.parse_args(argv)
    device = choose_device(opt.gpu_id, opt.precision)
    if device.device.type == "cpu":
        keep_freed_memory()
    seed_everything(0, False)  # as a run does: cuDNN benchmarks its algorithms
    torch._dynamo.config.recompile_limit = 1000  # one process compiles many objectives
    pairs, names = opt.pair, list(methods) if opt.all else opt.method
    if opt.peak_of:
        return print(peak(Bench(*pairs[0], names[0], opt, device), opt.peak_of, device))
    print(f"batch {opt.batch_size}, {opt.rounds} rounds of {opt.steps} steps, {device.describe()}, "
          f"compile {opt.compile}\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    rows = []
    for teacher, student in pairs:
        kd = Bench(teacher, student, "kd", opt, device)
        for name in names:
            rows.append(measure(kd, name, opt, device))
            cells = ("" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
                     for value in list(rows[-1].values())[3:])
            compiled = "yes" if rows[-1]["compiled"] else "no"
            print(f"| {teacher} -> {student} | {name} | {compiled} | " + " | ".join(cells) + " |", flush=True)
            if opt.json:
                facts = {"hardware": device.describe(), "batch_size": opt.batch_size, "compile": opt.compile}
                Path(opt.json).write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    between = 1000 * turnaround(Bench(*pairs[0], names[0], opt, device))
    print(f"\nbetween the last step of an epoch and the first of the next, {names[0]}: {between:.0f} ms")
    if opt.profile:
        profile(Bench(*pairs[0], names[0], opt, device), opt.profile)


def pair_list(text):
    """An argparse type: 'resnet20:resnet8,...' -> [['resnet20', 'resnet8'], ...]. Raises UsageError for others."""
    pairs = [pair.split(":") for pair in text.split(",")]
    for pair in pairs:
        if len(pair) != 2:
            raise UsageError(f"--pair: '{':'.join(pair)}' is not TEACHER:STUDENT, such as resnet20:resnet8")
        for name in pair:
            check_name(name)
    return pairs


def method_list(text):
    """An argparse type: 'kd,crd' -> ['kd', 'crd']. Raises UsageError for an unknown method."""
    for name in text.split(","):
        get_method(name)
    return text.split(",")


def file_in_a_folder(text):
    """An argparse type: a file whose folder exists. Raises UsageError for another."""
    if not Path(text).parent.is_dir():
        raise UsageError(f"{text}: there is no folder {Path(text).parent}")
    return text


def measure(kd, name, opt, device):
    """One row of the table, {column of COLUMNS: value, None if not measured}. kd: the Bench of kd for the same pair."""
    bench = kd if name == "kd" else Bench(kd.teacher_name, kd.student_name, name, opt, device)
    paths = {"fast": bench.fast, "ceiling": bench.ceiling, "kd": kd.fast}
    if not opt.skip_plain and bench.has_plain():
        paths["plain"] = bench.plain
    if bench is kd:
        del paths["kd"]
    for run in paths.values():
        run()  # warm-up
    times = {path: [] for path in paths}
    for _ in range(opt.rounds):
        for path, run in paths.items():
            times[path].append(run())

    def ratio(a, b):
        return median(x / y for x, y in zip(times[a], times[b], strict=True)) if a in times and b in times else None

    def images_per_second(path):
        return opt.batch_size / median(times[path]) if path in times else None

    memory = {path: None if opt.skip_memory or path not in times else peak_in_own_process(bench, path, opt)
              for path in ("plain", "fast")}
    return dict(zip(COLUMNS, (
        f"{kd.teacher_name}:{kd.student_name}", name, bench.is_compiled(), images_per_second("plain"),
        images_per_second("fast"), ratio("plain", "fast"), ratio("fast", "ceiling"),
        ratio("fast", "kd") if "kd" in times else 1.0, memory["plain"], memory["fast"]), strict=True))


class Bench:
    """A pair and a method. plain(), fast() and ceiling() each run a block and return the seconds per step.

    Args:
        teacher, student: registered names of networks. name: of the method.
        opt: batch_size, steps, compile and workers.
        device: helper.device.Device.
    """

    def __init__(self, teacher, student, name, opt, device):
        self.teacher_name, self.student_name, self.name, self.opt, self.device = teacher, student, name, opt, device
        generator = torch.Generator().manual_seed(0)
        n = opt.steps * opt.batch_size
        images = ArrayImages(torch.randint(256, (n, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator),
                             torch.arange(n) % CLASSES)
        self.data = Data("noise", [str(k) for k in range(CLASSES)], SIZE, (0.5,) * 3, (0.25,) * 3, True, images,
                         images, images)
        self._fast = self._plain = None

    def make(self, device, crd=None, fast=False):
        """(Objective, options), as in train_student.py.

        crd: a Method that replaces the zoo's CRDMethod.
        fast: with the prepared teacher, the channels-last layout and, if opt.compile is on, the compiled step.
        """
        torch.manual_seed(0)
        layout = torch.channels_last if fast else torch.contiguous_format
        student, teacher = (create_model(name, CLASSES).to(device.device, memory_format=layout)
                            for name in (self.student_name, self.teacher_name))
        composed = get_method(self.name)
        with tempfile.TemporaryDirectory() as directory:
            options = self._options(composed, teacher, directory)
            teacher = teacher.eval().requires_grad_(False) if composed.needs_teacher else None
            if crd and composed.method is CRDMethod:
                composed = composed._replace(method=crd)
            method, modifiers = (part.to(device.device) for part in composed.build(student, teacher, options))
        if fast:
            teacher = prepare_teacher(teacher, device, SIZE)
        terms = make_terms(task.criterion, options, method, modifiers)
        objective = Objective(student, device, terms, teacher, method, modifiers)
        if fast:
            try:
                compile_objective(objective, options.but(compile=self.opt.compile), device, self._loader())
            except UsageError as error:
                print(f"note: {self.name}: {error}", file=sys.stderr)
        return objective, options

    def _loader(self):
        return make_loader(self.data, self.data.train, kind="device", batch_size=self.opt.batch_size, train=True,
                           device=self.device.device)

    def _options(self, composed, teacher, directory):
        """The options of the method. For methods with heads, untrained ones are written into `directory`."""
        args = ["--distill", self.name, "--model_s", self.student_name, "--batch_size", str(self.opt.batch_size),
                "--learning_rate", "0.0001"]
        args += ["--path_t", directory] if composed.needs_teacher else ["--peers", self.teacher_name]
        opt = student_options(args).but(image_size=SIZE, num_classes=CLASSES, n_data=N_DATA,
                                        targets=torch.arange(N_DATA) % CLASSES, teacher_hash=weights_hash(teacher))
        if PATH_HEADS in composed.options:
            for kind in HEAD_TYPES:
                heads = Heads(feature_shapes(teacher, SIZE)[1:-1], None, CLASSES, kind)
                save_heads(Path(directory, f"{heads_name(kind)}.pth"), heads, {
                    "num_classes": CLASSES, "image_size": SIZE, "teacher_arch": self.teacher_name,
                    "teacher_hash": opt.teacher_hash})
        return opt

    def has_plain(self):
        """Whether there is a plain path. crd with modifiers has none."""
        composed = get_method(self.name)
        return composed.method is not CRDMethod or not composed.modifiers

    def is_compiled(self):
        """Whether the fast path runs compiled."""
        forward = self._fast_parts()[0].forward
        return isinstance(forward, Compiled) and forward.compiled is not None

    def _make_plain(self, device, crd):
        objective, options = self.make(device, crd)
        return objective, make_optimizer(objective.trained_parameters(), options)

    def plain(self):
        if self._plain is None:
            self._plain = PlainPath(self._make_plain, self.data, self.opt.batch_size, self.device, self.opt.workers)
        keep_freed_memory(False)
        try:
            return self._plain()
        finally:
            keep_freed_memory()

    def fast(self):
        objective, training = self._fast_parts()
        start = time.perf_counter()
        with redirect_stderr(io.StringIO()):  # the progress bar
            train_epoch(objective, training, StopSignal(), title="block", epochs_left=0, print_freq=10**9)
        return self._seconds(start)

    def ceiling(self):
        objective, _ = self._fast_parts()
        objective.train()
        start = time.perf_counter()
        for _ in range(self.opt.steps):
            objective.zero_grad(set_to_none=True)
            objective(self.batch).total.backward()
            for update in range(1, objective.updates):
                objective(self.batch, update).total.backward()
        return self._seconds(start)

    def _fast_parts(self):
        if self._fast is None:
            objective, options = self.make(self.device, fast=True)
            loader = self._loader()
            self._fast = objective, make_training(objective, options, loader, self.device)
            self.batch = next(iter(loader))
        return self._fast

    def _seconds(self, start):
        """Seconds per step since `start`, for a block of opt.steps steps."""
        if self.device.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / self.opt.steps


def make_training(objective, options, loader, device):
    """A helper.state.Training as helper.fit creates it, with a constant learning rate."""
    optimizer = make_optimizer(objective.trained_parameters(), options)
    scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
    meters = Meters(device.device, task)
    return Training(objective, optimizer, constant(options.learning_rate), scaler, loader, meters)


def turnaround(bench, epochs=5):
    """Median seconds from an epoch's last step to the next epoch's first batch.

    This includes averages, checkpoints, log and the new order of 50,000 images. It excludes the evaluation, whose time
    depends on the images, and the writing of files, which continues during training.
    """
    objective, options = bench.make(bench.device, fast=True)
    images = ArrayImages(torch.zeros(N_DATA, SIZE, SIZE, 3, dtype=torch.uint8), torch.arange(N_DATA) % CLASSES)
    loader = make_loader(bench.data, images, kind="device", batch_size=bench.opt.batch_size, train=True,
                         device=bench.device.device)
    training, seconds = make_training(objective, options, loader, bench.device), []
    meters, optimizer = training.meters, training.optimizer
    facts = {"arch": bench.student_name, "imagenet": False, "data": {"num_classes": CLASSES}}
    record = RunRecord("student", dict(student_options(["--path_t", "."])), facts=facts)
    with tempfile.TemporaryDirectory() as directory, Run(directory, record) as run:
        run.resume(training, task, [])
        batch = next(iter(loader))
        for epoch in range(1, epochs + 1):
            for _ in range(bench.opt.steps):
                losses = objective(batch)
                losses.total.backward()
                meters.update(losses, batch)
            optimizer.step()
            if bench.device.device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            run.finish_epoch({"epoch": epoch, task.key("test"): float(epoch), **meters.read()})
            loader.epoch += 1
            batch = next(iter(loader))
            seconds.append(time.perf_counter() - start)
            optimizer.zero_grad(set_to_none=True)
            meters.reset()
    return median(seconds)


def peak(bench, path, device):
    """Peak memory in MB of two blocks of a path ("plain", "fast" or "ceiling"), in this process."""
    for _ in range(2):
        getattr(bench, path)()
    if device.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    # Not ru_maxrss, because it starts with the parent's value.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def peak_in_own_process(bench, path, opt):
    """`peak` of a new process: Python starts this file with --peak_of and reads the number it prints."""
    command = [sys.executable, __file__, "--peak_of", path, "--steps", "3", "--method", bench.name,
               "--pair", f"{bench.teacher_name}:{bench.student_name}"]
    for flag in ("batch_size", "gpu_id", "precision", "compile"):
        command += [f"--{flag}", str(getattr(opt, flag))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def profile(bench, file):
    """Writes a torch profiler trace of one fast block to `file`, and prints its ten most expensive operations."""
    bench.fast()
    with torch.profiler.profile() as profiler:
        bench.fast()
    profiler.export_chrome_trace(file)
    key = "self_device_time_total" if bench.device.device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=key, row_limit=10))


if __name__ == "__main__":
    cli.run(main)
