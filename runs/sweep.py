"""Many runs as processes of their own, some at a time on each device: what scripts/sweep.py does with its list."""
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from cli.options import INCIDENTAL
from errors import UsageError

ROOT = Path(__file__).resolve().parent.parent  # where the entry scripts are
POLL = 0.2  # seconds between two looks at the processes
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
HEADS = "train_heads.py"


@dataclass(eq=False)
class Job:
    """One run: `script` (train_teacher.py, ...) with `args`, which it parses into `options`.

    directory: where the run keeps its files. needs: the jobs that make what this one reads. where: what the user wrote
    to get it, for messages.
    """

    script: str
    args: list[str]
    where: str
    options: Namespace
    directory: Path
    needs: list["Job"]
    state: str = "waiting"  # then "running", and "done", "failed" or "stopped"
    why: str = ""  # it failed: a line

    @property
    def log(self):
        """Where its output goes, after that of earlier starts."""
        return Path(f"{self.directory}.log")

    @property
    def product(self):
        """What other runs read of it: the directory, or the file of heads beside it."""
        return Path(f"{self.directory}.pth") if self.script == HEADS else self.directory

    def line(self):
        """The job as a line of --list."""
        return shlex.join([self.script, *self.args])

    def command(self, device):
        """What is executed. device: a value of --gpu_id; '' leaves the choice to the run."""
        name = [] if self.options.name else ["--name", self.directory.name]
        gpu = ["--gpu_id", device] if device else []
        return [sys.executable, str(ROOT / self.script), *self.args, *name, *gpu]

    def rows(self):
        """The metrics of the epochs that are finished."""
        lines = self._read("metrics.jsonl").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def recorded(self):
        """The options that the run was begun with, {} for one that was not."""
        return json.loads(self._read("options.json") or "{}")

    def is_finished(self):
        """Are all epochs there? Of a data set that has moved since, only the run itself can tell that it is the same
        one."""
        return (len(self.rows()) >= self.options.epochs and self.product.exists()
                and self.recorded().get("data_dir") == self.options.data_dir)

    def check_begun(self):
        """Raises UsageError if the run was begun with other options, with which it would refuse to go on."""
        before = self.recorded() if self.rows() or list(self.directory.glob("*.pth")) else {}
        for key, now in vars(self.options).items():
            open_yet = now is None or now == "auto"  # until the run knows the network, the images and the device
            if key in before.keys() - INCIDENTAL and not open_yet and now != before[key]:
                raise UsageError(f"{self.directory} was begun with {key} = {before[key]}, not {now}: give another "
                                 "--name or --trial, or delete it")

    def _read(self, name):
        file = self.directory / name
        return file.read_text() if file.exists() else ""


class Child(NamedTuple):
    """The process of a running job."""

    process: subprocess.Popen
    device: str
    start: float  # time.perf_counter()
    log_start: int  # bytes that its log had before


class Sweep:
    """Runs jobs in their order, but for those that wait for another, `per_device` at a time on each of `devices`.

    A finished job is not started, a failing one stops only those that need it. SIGINT, SIGTERM and SIGHUP are passed
    on: the runs save and stop, and no more are started; a second SIGINT kills them.

    Args:
        jobs: [Job], each after those that it needs. Their `state` tells afterwards what became of them.
        devices: values of --gpu_id.

    Attributes:
        signal: the signal that stopped the sweep, or None.
        threads: what each process may use of the CPU: two that share cores with two threads each can be ten times
            slower than with one.
    """

    def __init__(self, jobs, devices, per_device):
        self.jobs, self.devices = jobs, devices
        self.slots = len(devices) * per_device
        self.threads = threads_each(self.slots)
        self.running = {}  # Job -> Child
        self.signal, self.passed_on, self.kill = None, False, False

    def of(self, state):
        """The jobs of a state."""
        return [job for job in self.jobs if job.state == state]

    def run(self):
        """Returns when all are done, failed or stopped."""
        for job in self.jobs:
            if job.is_finished():
                self._tell(job, "done", "before")
        try:
            with self._receiving_signals():
                while self._step():
                    time.sleep(POLL)
        finally:
            for child in self.running.values():  # none, unless this is the way out of an error
                child.process.terminate()
            for child in self.running.values():
                child.process.wait()

    def _step(self):
        """Look at every process once. Returns whether there is one to wait for."""
        for job, child in list(self.running.items()):
            if (code := child.process.poll()) is not None:
                self._finish(job, child, code)
        if self.signal is None:
            self._start_what_can()
        else:
            self._pass_on()
        return bool(self.running)

    def _start_what_can(self):
        for job in self.of("waiting"):
            broken = [need for need in job.needs if need.state == "failed"]
            if broken:
                self._fail(job, f"not started: it needs {broken[0].directory}")
            elif len(self.running) < self.slots and all(need.state == "done" for need in job.needs):
                self._start(job)

    def _start(self, job):
        busy = [child.device for child in self.running.values()]
        device = min(self.devices, key=busy.count)
        command = job.command(device)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as log:
            log_start = log.tell()
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            # A session of its own: the terminal's Ctrl-C reaches this process alone, which passes it on once.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True,
                                       env=os.environ | {"OMP_NUM_THREADS": str(self.threads)})
        self.running[job] = Child(process, device, time.perf_counter(), log_start)
        done = len(job.rows())
        self._tell(job, "running", f"after epoch {done} of {job.options.epochs}" if done else "",
                   f"on GPU {device}" if device not in ("", "cpu") else "")

    def _finish(self, job, child, code):
        del self.running[job]
        if code == 0:
            self._tell(job, "done", f"in {timedelta(seconds=round(time.perf_counter() - child.start))}")
        elif self.signal is not None and code in (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL):
            self._tell(job, "stopped")
        else:
            lines = job.log.read_bytes()[child.log_start:].decode(errors="replace").splitlines()
            # Not just the last line: what a killed sweep left running writes to the same log.
            last_line = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
            end = f"exit status {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
            self._fail(job, f"{end}: {last_line} ({job.log})")

    def _fail(self, job, why):
        job.why = why
        self._tell(job, "failed", why)

    def _tell(self, job, state, *more):
        """The job is in this state now: a line that says so, with its accuracy so far."""
        job.state = state
        rows = job.rows()
        accuracy = f"{rows[-1]['test_acc']:.2f}%" if rows else ""
        ended = len(self.of("done")) + len(self.of("failed"))
        parts = [f"[{ended}/{len(self.jobs)}]", f"{state:7}", job.directory.name, accuracy, *more]
        print("  ".join(filter(None, parts)), flush=True)

    def _pass_on(self):
        if not self.passed_on:
            self.passed_on = True
            for child in self.running.values():
                child.process.terminate()
            print(f"stopping: waiting for {len(self.running)} runs to save; a second Ctrl-C kills them", flush=True)
        if self.kill:
            for child in self.running.values():
                child.process.kill()

    @contextmanager
    def _receiving_signals(self):
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        previous = {number: signal.signal(number, self._receive) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number, frame):
        self.kill = self.kill or self.signal == signal.SIGINT == number
        self.signal = self.signal or number


def threads_each(processes):
    """A process's share of the CPU's cores, at least 1, and not more than OMP_NUM_THREADS says already."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // processes, int(allowed) if allowed.isdecimal() else cores))
