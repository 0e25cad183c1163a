"""Tables over runs: what is averaged with what."""
import json

import pytest

from errors import UsageError
from helper.report import bars, find_runs, group_runs, plot, table


@pytest.fixture
def make(tmp_path):
    """make(name, accuracies by epoch, **options): a run's directory."""

    def call(name, accuracies, **options):
        directory = tmp_path / name
        directory.mkdir()
        base = {"model": "resnet8", "trial": "0", "seed": 0, "parameters": 78042, "epochs": len(accuracies)}
        (directory / "options.json").write_text(json.dumps(base | options))
        rows = [{"epoch": i, "test_acc": acc, "seconds": 30.0} for i, acc in enumerate(accuracies, 1)]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return directory

    return call


def distilled(teacher_hash, trial):
    return {"distill": "kd", "model_s": "resnet8", "teacher": {"arch": "resnet20"}, "teacher_hash": teacher_hash,
            "trial": trial, "seed": int(trial)}


def test_trials_of_one_setting_are_averaged(make, tmp_path):
    make("a", [50, 60, 59])
    make("b", [52, 64, 63], trial="1", seed=1)
    lines = table(group_runs(find_runs([tmp_path]))).splitlines()
    assert len(lines) == 3
    assert lines[2] == "| resnet8 | 3 | 2 | 61.00 ± 2.83 | 62.00 ± 2.83 | 78,042 | 90 s |"


def test_other_options_and_other_teachers_stay_apart(make, tmp_path):
    make("a", [50])
    make("b", [52], batch_size=128)
    make("c", [60], **distilled("aaa", "0"))
    make("d", [70], **distilled("aaa", "1"))
    make("e", [80], **distilled("bbb", "1"))
    groups = group_runs(find_runs([tmp_path]))
    assert [len(runs) for runs in groups.values()] == [1, 1, 2, 1]
    assert list(groups)[1] == "resnet8 (batch_size 128)"
    assert "teacher_hash" in list(groups)[3]


def test_the_held_out_set_chooses_the_best_epoch(make, tmp_path):
    directory = make("a", [70, 60])
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(row | {"val_acc": val}) + "\n" for row, val in zip(rows, (1, 2), strict=True))
    (directory / "metrics.jsonl").write_text(text)
    assert "| 60.00 | 60.00 |" in table(group_runs(find_runs([tmp_path])))


def test_a_run_that_is_writing_counts_what_is_whole(make, tmp_path):
    directory = make("a", [70, 60])
    with open(directory / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "test_')
    assert len(find_runs([tmp_path])[0]["rows"]) == 2


def test_runs_that_are_not_finished_are_told_apart(make, tmp_path):
    make("a", [50, 60], epochs=2)
    make("b", [52], trial="1", seed=1, epochs=2)
    assert "| resnet8 | 1 to 2 | 2 |" in table(group_runs(find_runs([tmp_path])))


def test_pictures(make, tmp_path):
    make("a", [50, 60])
    make("b", [52, 64], **distilled("aaa", "0"))
    groups = group_runs(find_runs([tmp_path]))
    for draw in (plot, bars):
        draw(groups, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="no run with metrics"):
        find_runs([tmp_path])
