"""Many runs as processes of their own, some at a time on each device: what scripts/sweep.py does with its list."""
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from errors import UsageError
from files import Timeout, lock
from flags import Options, Role
from runs.record import FILE, RunRecord
from runs.report import read_rows
from tasks import CLASSIFICATION as task

ROOT = Path(__file__).resolve().parent.parent  # where the entry scripts are
POLL = 0.2  # seconds between two looks at the processes
LOOK = 10.0  # seconds between two looks at a run that another process trains
PATIENCE = 60.0  # seconds that a worker leaves the next one's runs alone; a run locks its directory after 5 to 30
CLAIMED = "is being trained by another process"  # what a run says that finds its directory locked
MOST_REFUSALS = 5  # of one run: on a disk without locks every start would be refused
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
HEADS = "train_heads.py"


@dataclasses.dataclass(eq=False)
class Job:
    """One run: `script` (train_teacher.py, ...) with `args`, which it parses into `options`.

    record: what is known of the run before it starts. directory: where the run keeps its files. needs: the jobs that
    make what this one reads. where: what the user wrote to get it, for messages.
    """

    script: str
    args: list[str]
    where: str
    options: Options
    record: RunRecord
    directory: Path
    needs: list["Job"]
    state: str = "waiting"  # then "running", here, or "elsewhere", and "done", "failed" or "stopped"
    why: str = ""  # it failed: a line
    due: float = 0.0  # time.monotonic() before which it is not looked at again
    refused: int = 0  # starts that found the directory locked by another process

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
        return read_rows(self.directory)

    def recorded(self):
        """The RunRecord that the run was begun with, None for one that was not."""
        return RunRecord.read(self.directory) if Path(self.directory, FILE).exists() else None

    def is_finished(self):
        """Are all epochs there? Of a data set that has moved since, only the run itself can tell that it is the same
        one."""
        before = self.recorded()
        return (before is not None and len(self.rows()) >= self.options.epochs and self.product.exists()
                and before.options.get("data_dir") == self.options.data_dir)

    def check_begun(self):
        """Raises UsageError if the run was begun with other options, with which it would refuse to go on."""
        before = self.recorded() if self.rows() or list(self.directory.glob("*.pth")) else None
        # The digits of inputs are of places here, and of weights there.
        known = None if before is None else dataclasses.replace(before, facts=before.facts | {"inputs": {}})
        for key, was, now in [] if known is None else self.record.differs(known):
            raise UsageError(f"{self.directory} was begun with {key} = {was}, not {now}: give another --name or "
                             "--trial, or delete it")

    def is_same(self, other):
        """Is it one run with the Job `other`? Both read the same files, by their places."""
        def identity(job):
            roles = job.record.roles
            return {key: value for key, value in job.options.items()
                    if roles.get(key, Role.IDENTITY) in (Role.IDENTITY, Role.INPUT)}

        return identity(self) == identity(other)


class Child(NamedTuple):
    """The process of a running job."""

    process: subprocess.Popen
    device: str
    start: float  # time.perf_counter()
    log_start: int  # bytes that its log had before


class Sweep:
    """Runs jobs, each after those that it needs, `per_device` at a time on each of `devices`.

    A finished job is not started. A failing job stops only those that need it. SIGINT, SIGTERM and SIGHUP are passed
    on once: the runs save and stop, and no more are started; a second SIGINT kills them.

    Several sweeps may share the jobs and the disk. A run that a live process has locked is "elsewhere": it is polled,
    done when it is finished, and started here if its process died before that.

    Args:
        jobs: [Job], in the order in which they are started where several can be. Their `state` tells afterwards what
            became of them.
        devices: values of --gpu_id.
        shard: (i, n), this is worker i of n, counted from 1. It begins with every n-th job. The jobs of worker
            i + d (modulo n) are started here after d * PATIENCE seconds in which nobody has locked them.

    Attributes:
        signal: the signal that stopped the sweep, or None.
        threads: what each process may use of the CPU: two that share cores with two threads each can be ten times
            slower than with one.
    """

    def __init__(self, jobs, devices, per_device, shard=(1, 1)):
        self.jobs, self.devices = jobs, devices
        self.slots = len(devices) * per_device
        self.threads = threads_each(self.slots)
        self.places = {job: ((i - shard[0] + 1) % shard[1], i) for i, job in enumerate(jobs)}  # (d, index)
        self.ready = []  # jobs whose needs are done, and which are neither running here nor done
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
        todo = self.of("waiting")
        self.graph = TopologicalSorter({job: set(job.needs).intersection(todo) for job in todo})
        self.graph.prepare()
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
        """Look at every process and every ready job once. Returns whether there is something to wait for."""
        for job, child in list(self.running.items()):
            if (code := child.process.poll()) is not None:
                self._finish(job, child, code)
        if self.signal is not None:
            self._pass_on()
            return bool(self.running)
        for job in self.graph.get_ready():
            self._wait(job, self._patience(job))
        for job in sorted(self.ready, key=self.places.get):
            self._look_at(job)
        return self.graph.is_active()

    def _patience(self, job):
        return self.places[job][0] * PATIENCE

    def _wait(self, job, seconds):
        """Keep a job that is ready, and look at it after this many seconds."""
        job.due = time.monotonic() + seconds
        if job not in self.ready:
            self.ready.append(job)

    def _look_at(self, job):
        """Start a ready job if a slot is free and no other process has it, or see that it is finished or cannot be."""
        broken = [need for need in job.needs if need.state == "failed"]
        if broken:
            self._end(job, "failed", f"not started: it needs {broken[0].directory}")
        elif len(self.running) == self.slots or time.monotonic() < job.due:
            return
        elif is_locked(job.directory):
            if job.state != "elsewhere":
                self._tell(job, "elsewhere", "another process trains it")
            self._wait(job, LOOK)
        elif job.is_finished():
            self._end(job, "done", "elsewhere")
        elif job.state == "elsewhere" and self._patience(job):
            job.state = "waiting"  # its process died: the workers with a smaller d come first
            self._wait(job, self._patience(job))
        else:
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
        self.ready.remove(job)
        self.running[job] = Child(process, device, time.perf_counter(), log_start)
        done = len(job.rows())
        self._tell(job, "running", f"after epoch {done} of {job.options.epochs}" if done else "",
                   f"on GPU {device}" if device not in ("", "cpu") else "")

    def _finish(self, job, child, code):
        del self.running[job]
        if code == 0:
            self._end(job, "done", f"in {timedelta(seconds=round(time.perf_counter() - child.start))}")
            return
        lines = job.log.read_bytes()[child.log_start:].decode(errors="replace").splitlines()
        # Not just the last line: another worker's process may write to the same log.
        last_line = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
        if self.signal is not None and code in (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL):
            self._tell(job, "stopped")
        elif code == 2 and CLAIMED in last_line and job.refused < MOST_REFUSALS:
            job.refused += 1
            self._tell(job, "waiting", "another process was faster")
            self._wait(job, 0)
        else:
            end = f"exit status {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
            self._end(job, "failed", f"{end}: {last_line} ({job.log})")

    def _end(self, job, state, why):
        """The job is done or has failed: what needs it becomes ready."""
        if job in self.ready:
            self.ready.remove(job)
        self.graph.done(job)
        job.why = why
        self._tell(job, state, why)

    def _tell(self, job, state, *more):
        """The job is in this state now: a line that says so, with its accuracy so far."""
        job.state = state
        rows = job.rows()
        accuracy = f"{task.value(rows[-1]):.2f}%" if rows else ""
        ended = len(self.of("done")) + len(self.of("failed"))
        parts = [f"[{ended}/{len(self.jobs)}]", f"{state:9}", job.directory.name, accuracy, *more]
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


def is_locked(directory):
    """Does a live process have the run in `directory`? False where there is no lock file, or one that cannot be locked,
    of which the run itself says why.

    Asking takes the lock for a moment: a run that begins in that moment is refused, and a sweep starts it again.
    """
    file = Path(directory, ".lock")
    if not file.exists():
        return False
    try:
        with lock(file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
