"""A run's directory: its lock, and what is refused on entry."""
import fcntl

import pytest

from cli.options import teacher_options
from errors import UsageError
from runs.directory import Run
from runs.record import RunRecord


def record(*args):
    opt = teacher_options(list(args))
    return RunRecord("teacher", dict(opt), opt.given, {"data": {"name": "digits"}}, opt.roles)


def test_a_run_in_another_process_is_not_touched(tmp_path):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            Run(tmp_path / "run", record()).__enter__()


def test_other_options_under_one_name_are_refused(tmp_path):
    record("--name", "mine").write(tmp_path)
    (tmp_path / "last.pth").touch()
    run = Run(tmp_path, record("--name", "mine", "--batch_size", "32"))
    with pytest.raises(UsageError, match=r"begun with batch_size = 64, not 32: pass --overwrite.* another --name$"):
        run.__enter__()


def test_checkpoints_without_a_record_are_refused(tmp_path):
    (tmp_path / "last.pth").touch()
    with pytest.raises(UsageError, match=r"has checkpoints but no options\.json"):
        Run(tmp_path, record()).__enter__()


def test_temporary_files_of_a_kill_are_removed(tmp_path):
    (tmp_path / "last.pth.0123abcd.tmp").touch()
    with Run(tmp_path, record()):
        assert not list(tmp_path.glob("*.tmp"))
