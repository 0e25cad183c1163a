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


def test_each_first_stage_has_a_file(tmp_path):
    names = [Run(tmp_path, record()).first_stage(number).name for number in (1, 2, 3)]
    assert names == ["first_stage.pth", "first_stage_2.pth", "first_stage_3.pth"]


def test_a_first_stage_is_a_beginning(tmp_path):
    record("--name", "mine").write(tmp_path)
    (tmp_path / "first_stage.pth").touch()
    with pytest.raises(UsageError, match="begun with batch_size = 64, not 32"):
        Run(tmp_path, record("--name", "mine", "--batch_size", "32")).__enter__()
    with Run(tmp_path, record("--name", "mine", "--batch_size", "32", "--overwrite")):
        assert not (tmp_path / "first_stage.pth").exists()
    assert RunRecord.read(tmp_path).options["batch_size"] == 32


def test_a_refused_run_leaves_nothing(tmp_path):
    Run(tmp_path / "run", record())
    assert not (tmp_path / "run").exists()


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
