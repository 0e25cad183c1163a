"""A run's directory: its name, its files, and going on where it stopped."""
import hashlib
import json
import re
import sys
from pathlib import Path

import torch

from errors import UsageError
from helper.checkpoint import Writer, load_training, save_checkpoint, snapshot, write_atomically
from helper.options import INCIDENTAL

_LONGEST_NAME = 200  # file systems allow 255 bytes


def teacher_name(opt, dataset):
    """Directory name of a run of train_teacher.py: 'resnet20_cifar100_epochs-30_trial-0', or what --name says.

    A teacher with another network's classifier (SH-KD): 'resnet32x4_cifar100_th-resnet8x4-1a2b3c_trial-0', the digits
    being of the classifier's weights.
    """
    shared = [f"th-{opt.th}"] if opt.th else []
    return opt.name or _name([opt.model, dataset, *shared, *_settings(opt, {"model"})], opt.trial)


def student_name(opt, dataset, facts):
    """Directory name of a run of train_student.py: 'S-resnet8_T-resnet20-1a2b3c_cifar100_kd_r-0.1_a-0.9_b-0_trial-1'.

    facts: those of helper.setup.make_teacher. The digits behind the teacher are of its weights: another teacher makes
    another run; so do other heads.
    """
    if opt.name:
        return opt.name
    weights = [f"r-{_text(opt.gamma)}", f"a-{_text(opt.alpha)}", f"b-{_text(opt.beta)}"]
    if opt.delta:
        weights.append(f"d-{_text(opt.delta)}")
    skip = {"model_s", "distill", "gamma", "alpha", "beta", "delta"}
    teachers = [f"T-{teacher['arch']}-{teacher['hash'][:6]}" for teacher in facts.values()]
    if opt.heads:
        weights.append(f"heads-{opt.heads}")
    return _name([f"S-{opt.model_s}", *teachers, dataset, opt.distill, *weights,
                  *_settings(opt, skip)], opt.trial)


def _settings(opt, skip):
    """'key-value' of each option that was set by hand and has no place of its own in the name."""
    shown = ((key, value) for key, value in opt.named.items() if key not in skip | {"dataset", "trial"})
    return [f"{key}-{_text(value)}" for key, value in shown]


def _text(value):
    if isinstance(value, list):
        return "+".join(map(_text, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"  # 1 rather than 1.0; but never two values under one name
    return str(value)


def _name(parts, trial):
    name, end = "_".join(parts).replace("/", "."), f"_trial-{trial}"
    name, end = (re.sub(r"[^\w.+-]", "-", text) for text in (name, end))
    if len(name + end) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name[:_LONGEST_NAME - len(end) - 13]}_{digest}"
    return name + end


class Run:
    """The files of one run in `directory`: last.pth, best.pth, options.json, metrics.jsonl, TensorBoard events.

    A context manager: the directory is made and locked on entry, not before, so that a run refused for bad input leaves
    nothing behind.

    Args:
        opt: the options; those that are not INCIDENTAL must not change when the run is resumed.
        facts: what else identifies the networks, for checkpoints and options.json: arch, num_classes, imagenet, ...

    Attributes:
        history: one row (dict) of metrics per finished epoch.
    """

    def __init__(self, directory, opt, facts):
        self.directory, self.facts = Path(directory), facts
        self.last = self.directory / "last.pth"
        self.first_stage = self.directory / "first_stage.pth"
        self.options = {key: value for key, value in vars(opt).items() if key not in ("named", "targets")}
        self.overwrite, self.save_freq = opt.overwrite, opt.save_freq
        self.another = "another --name" if opt.name else "another --trial"
        self.history = []
        self.tensorboard = {}
        self.writer = Writer()

    @property
    def best(self):
        """The row of the first epoch with the highest accuracy."""
        return max(self.history, key=lambda row: row[self.best_by])

    def __enter__(self):
        """Claim the directory, or go on in it if the run was begun before.

        Raises:
            UsageError: another process has this run, or it was begun with other options.
        """
        options_file = self.directory / "options.json"
        begun = self.last.exists() or self.first_stage.exists()
        if begun and not self.overwrite:
            if not options_file.exists():
                raise UsageError(f"{self.directory} has checkpoints but no options.json: pass --overwrite to start it "
                                 "anew")
            self._check_options(json.loads(options_file.read_text()))
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock()
        stale = [".*.pth.*"]  # what a kill in the middle of a save left
        if self.overwrite:
            stale += ["*.pth", "metrics.jsonl", "**/events.out.tfevents.*"]
        for pattern in stale:
            for file in self.directory.glob(pattern):
                file.unlink()
        if self.overwrite or not begun:
            self._write_options()
        return self

    def __exit__(self, *exception):
        try:
            if exception == (None, None, None):
                self.writer.wait()
        finally:
            self.writer.close()
            for events in self.tensorboard.values():
                events.close()
            self.lock.close()

    def resume(self, training, best_by):
        """Restore `training` and the history from last.pth if there is one.

        best_by is the key of a metrics row, a percentage, that chooses the best epoch.
        """
        self.training, self.best_by = training, best_by
        if self.last.exists():
            self.history = load_training(self.last, training)["history"]
        self._write_metrics()

    def finish_epoch(self, row):
        """Add a row of metrics, and write it and the state as it is now while the next epoch begins.

        Raises:
            UsageError: what the epoch before left could not be written.
        """
        results = [self.directory / f"ckpt_epoch_{row['epoch']}.pth"]
        if not self.save_freq or row["epoch"] % self.save_freq:
            results = []
        if not self.history or row[self.best_by] > self.best[self.best_by]:
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
        metrics = self.history[-1] if self.history else {}
        return self.facts | self.training.result() | {"epoch": len(self.history), "metrics": metrics,
                                                      "options": self.options}

    def _check_options(self, before):
        now = json.loads(json.dumps(self.options))
        if now.get("data_identity") != before.get("data_identity", now.get("data_identity")):
            raise UsageError(f"{self.directory} was begun on other images than {now.get('data_dir')} has now: pass "
                             "--overwrite to start it anew, or another --name")
        for key in now:
            if key in before.keys() - INCIDENTAL and now[key] != before[key]:
                raise UsageError(f"{self.directory} was begun with {key} = {before[key]}, not {now[key]}: pass "
                                 f"--overwrite to start it anew, or {self.another}")

    def _lock(self):
        self.lock = open(self.directory / ".lock", "w")  # noqa: SIM115 - held, and so locked, until the run is closed
        try:
            import fcntl
        except ImportError:  # Windows: nothing keeps two processes apart there
            return
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{self.directory} is being trained by another process: wait for it, or use another "
                             "--trial") from error

    def _write_options(self):
        content = self.options | self.facts | {"command": sys.argv, "torch": torch.__version__}
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(self.directory / "options.json", lambda file: file.write(text.encode()))

    def _write_metrics(self):
        text = "".join(json.dumps(row) + "\n" for row in self.history)
        write_atomically(self.directory / "metrics.jsonl", lambda file: file.write(text.encode()))
