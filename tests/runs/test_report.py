"""Tables over runs: what is averaged with what."""
import json

import pytest

from cli.options import teacher_options
from errors import UsageError
from runs.plots import bars, plot, plot_heads
from runs.record import RunRecord
from runs.report import find_runs, group_runs, split_groups, table


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


def test_trials_from_two_places_are_averaged(tmp_path):
    """The data and the runs were elsewhere, the images were the same."""
    for trial, place in enumerate(("a", "b")):
        opt = teacher_options(["--model", "resnet8", "--trial", str(trial), "--data_dir", place, "--save_dir", place,
                               "--num_workers", str(trial), *(["--precision", "fp32"] if trial else [])])
        facts = {"arch": "resnet8", "parameters": 78042, "data": {"name": "digits"}, "inputs": {},
                 "resolved": {"precision": "fp32", "compile": "off"}}
        (tmp_path / place).mkdir()
        RunRecord("teacher", dict(opt), opt.given, facts, opt.roles).write(tmp_path / place)
        row = {"epoch": 1, "test_acc": 60.0 + 2 * trial, "seconds": 1.0}
        (tmp_path / place / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    line = "| resnet8 | 1 | 2 | 61.00 ± 1.41 | 61.00 ± 1.41 | 78,042 | 1 s |"
    assert table(group_runs(find_runs([tmp_path]))).splitlines()[2:] == [line]


def test_other_options_and_other_teachers_stay_apart(make, tmp_path):
    make("a", [50])
    make("b", [52], batch_size=128)
    make("c", [60], **distilled("aaa", "0"))
    make("d", [70], **distilled("aaa", "1"))
    make("e", [80], **distilled("bbb", "1"))
    groups = group_runs(find_runs([tmp_path]))
    assert [len(runs) for runs in groups.values()] == [1, 1, 2, 1]
    assert list(groups)[1] == "resnet8 (batch_size 128)"
    assert "teacher weights" in list(groups)[3]


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
    assert len(find_runs([tmp_path])[0].rows) == 2


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


def tuned(kind, trial="0", accuracy=70.0):
    return {"head_type": kind, "arch": "resnet20", "teacher": {"arch": "resnet20", "accuracy": accuracy},
            "trial": trial, "seed": int(trial)}


def head_rows(directory, *epochs, split="test"):
    """Rewrite the metrics of a run: ((accuracy, loss) of the head on stage 1, of that on stage 3) in each epoch."""
    rows = []
    for heads in epochs:
        row = {"epoch": len(rows) + 1, "test_acc": 1.0, "seconds": 1.0, f"{split}_loss": 1.0, f"{split}_acc": 1.0}
        for stage, (acc, loss) in zip((1, 3), heads, strict=True):
            row |= {f"test_head{stage}_acc": acc, f"{split}_head{stage}_loss": loss}
        rows.append(row)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def with_heads(make, tmp_path):
    """Groups of a network, of flat heads in two trials, and of conv heads."""
    make("a", [50, 60])
    head_rows(make("b", [1, 1], **tuned("flat")), ((30, 2.0), (60, 1.5)), ((40, 2.5), (62, 1.0)))
    head_rows(make("c", [1, 1], **tuned("flat", "1", 72.0)), ((32, 2.0), (66, 1.5)), split="val")
    head_rows(make("d", [1, 1], **tuned("conv")), ((50, 2.0), (70, 1.5)))
    return group_runs(find_runs([tmp_path]))


def test_heads_have_a_table_of_their_own(with_heads):
    networks, heads = table(with_heads).split("\n\n")
    assert networks.splitlines()[2:] == ["| resnet8 | 2 | 1 | 60.00 | 60.00 | 78,042 | 60 s |"]
    assert heads.splitlines() == [
        "| heads | trials | stage 1, % | stage 3, % | teacher, % | parameters |", "|---|---|---|---|---|---|",
        "| flat heads of resnet20 | 2 | 31.00 ± 1.41 | 64.00 ± 2.83 | 71.00 ± 1.41 | 78,042 |",
        "| conv heads of resnet20 | 1 | 50.00 | 70.00 | 70.00 | 78,042 |"]


def test_the_picture_of_heads(with_heads, tmp_path):
    networks, heads = split_groups(with_heads)
    assert (list(networks), len(heads)) == (["resnet8"], 2)
    for draw, groups in ((plot_heads, with_heads), (plot_heads, heads), (plot, with_heads), (bars, with_heads)):
        draw(groups, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "picture.png").unlink()
    assert table(heads).startswith("| heads |")
    with pytest.raises(UsageError, match=r"no run of train_heads\.py is there"):
        plot_heads(networks, tmp_path / "picture.png")
    for draw in (plot, bars):
        with pytest.raises(UsageError, match="no run of a network is there"):
            draw(heads, tmp_path / "picture.png")


def test_heads_of_a_teacher_whose_accuracy_was_not_measured(make, tmp_path):
    head_rows(make("a", [1], **tuned("flat", accuracy=None)), ((30, 2.0), (60, 1.5)))
    groups = group_runs(find_runs([tmp_path]))
    assert table(groups).splitlines()[2] == "| flat heads of resnet20 | 1 | 30.00 | 60.00 | - | 78,042 |"
    plot_heads(groups, tmp_path / "picture.png")


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="no run with metrics"):
        find_runs([tmp_path])
