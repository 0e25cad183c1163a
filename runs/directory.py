"""A run's directory: its lock, its files, and going on where it stopped."""
import json
import sys
from pathlib import Path

import torch

from errors import UsageError
from files import Timeout, lock, remove_abandoned, write_text
from models.checkpoint import save_checkpoint
from runs.checkpoint import Writer, snapshot
from runs.record import FILE, RunRecord


class Run:
    """The files of one run in `directory`: last.pth, best.pth, options.json, metrics.jsonl, TensorBoard events.

    A context manager: the directory is made and locked on entry, not before, so that a run refused for bad input leaves
    nothing behind.

    Args:
        directory: where; made from record.name() by whoever knows what the run is.
        record: RunRecord, which must be of the same run when it is resumed.
        deployment: models.deploy.Deployment of what the run evaluates, for its checkpoints.

    Attributes:
        history: one row (dict) of metrics per finished epoch.
    """

    def __init__(self, directory, record, deployment=None):
        self.directory, self.record, self.deployment = Path(directory), record, deployment
        self.last = self.directory / "last.pth"
        self.overwrite, self.save_freq = record.options["overwrite"], record.options["save_freq"]
        self.history = []
        self.tensorboard = {}
        self.writer = Writer()

    def first_stage(self, number):
        """The checkpoint of a first stage, counted from 1."""
        return self.directory / ("first_stage.pth" if number == 1 else f"first_stage_{number}.pth")

    def __enter__(self):
        """Claim the directory, or go on in it if the run was begun before.

        Raises:
            UsageError: another process has this run, or it was begun with other options.
        """
        begun = self.last.exists() or self.first_stage(1).exists()
        if begun and not self.overwrite:
            if not (self.directory / FILE).exists():
                raise UsageError(f"{self.directory} has checkpoints but no {FILE}: pass --overwrite to start it anew")
            self.record.check_same(RunRecord.read(self.directory), self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.directory)  # what a kill in the middle of a save left
        self._lock()
        for pattern in ("*.pth", "metrics.jsonl", "**/events.out.tfevents.*") if self.overwrite else ():
            for file in self.directory.glob(pattern):
                file.unlink()
        if self.overwrite or not begun:
            self.record.write(self.directory, command=sys.argv, torch=torch.__version__)
        return self

    def __exit__(self, *exception):
        try:
            if exception == (None, None, None):
                self.writer.wait()
        finally:
            self.writer.close()
            for events in self.tensorboard.values():
                events.close()
            self.lock.release()

    def resume(self, training, task, history):
        """Go on with `training` (helper.state.Training) after the rows of `history`, [] at the start."""
        self.training, self.task, self.history = training, task, history
        write_text(self.directory / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))

    def finish_epoch(self, row):
        """Add a row of metrics, and write it and the state as it is now while the next epoch begins.

        Raises:
            UsageError: what the epoch before left could not be written.
        """
        results = [self.directory / f"ckpt_epoch_{row['epoch']}.pth"]
        if not self.save_freq or row["epoch"] % self.save_freq:
            results = []
        if not self.history or self.task.is_better(row, self.task.best(self.history)):
            results.append(self.directory / "best.pth")
        self.history.append(row)
        self.writer.submit(self._write_epoch, row, results, snapshot(self._result()),
                           snapshot(self._rest()))

    def _write_epoch(self, row, results, result, rest):
        """last.pth, from which a killed run goes on, comes after all that it would not write again, and before the log,
        which is rewritten from it."""
        for path in results:
            save_checkpoint(path, result)
        self.write_events(row["epoch"], {key: value for key, value in row.items() if key != "epoch"})
        save_checkpoint(self.last, result | rest)
        with open(self.directory / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def write_events(self, epoch, scalars, part=""):
        """Add TensorBoard scalars; what an interrupted run wrote from this epoch on is dropped.

        part: a sub-directory, for a stage that counts its own epochs: dropping goes by the epoch alone.
        """
        if part not in self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # a second to import: after the first epoch, not before
            self.tensorboard[part] = SummaryWriter(self.directory / part, purge_step=epoch)
        for key, value in scalars.items():
            self.tensorboard[part].add_scalar(key, value, epoch)
        self.tensorboard[part].flush()

    def save(self):
        """Write last.pth: the result so far and all that is needed to go on, in mid-epoch too."""
        self.writer.wait()
        save_checkpoint(self.last, self._result() | self._rest())

    def _rest(self):
        """What last.pth has beside the result."""
        return self.training.rest() | {"history": self.history}

    def _result(self):
        facts = self.record.facts
        network = {"arch": facts["arch"], "imagenet": facts["imagenet"], "num_classes": facts["data"]["num_classes"]}
        if self.deployment is not None:
            network["deployment"] = self.deployment._asdict()
        if self.history:
            network["accuracy"] = self.task.value(self.history[-1])
        return network | self.training.result() | {"epoch": len(self.history), "record": self.record.as_dict(),
                                                   "metrics": self.history[-1] if self.history else {}}

    def _lock(self):
        self.lock = lock(self.directory / ".lock", timeout=0)  # held until the run is closed
        try:
            self.lock.acquire()
        except Timeout as error:
            raise UsageError(f"{self.directory} is being trained by another process: wait for it, or use another "
                             "--trial") from error
