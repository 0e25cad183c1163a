"""Tables over finished or running runs."""
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from errors import UsageError
from runs.record import FILE, RunRecord
from tasks import CLASSIFICATION as task


@dataclass(frozen=True)
class FoundRun:
    """A run on disk: its directory's name, its RunRecord, and one dict of metrics per finished epoch."""

    name: str
    record: RunRecord
    rows: list

    @property
    def last(self):
        """Test accuracy of the last epoch, %."""
        return task.value(self.rows[-1])

    @property
    def best(self):
        """Test accuracy of the epoch that held-out images, or the test images, chose, %."""
        return task.value(task.best(self.rows))

    @property
    def is_heads(self):
        return self.record.kind == "heads"

    @property
    def teacher(self):
        """What the run recorded of its teacher, {} without one."""
        return self.record.facts.get("teacher", {})


def find_runs(paths):
    """[FoundRun] of every directory with options.json and metrics.jsonl at or below `paths`, sorted by path.

    Raises:
        UsageError: nothing there, or a damaged record.
    """
    files = {file for path in paths for file in Path(path).rglob("metrics.jsonl")}
    runs = []
    for file in sorted(files):
        rows = read_rows(file.parent)
        if rows and (file.parent / FILE).exists():
            runs.append(FoundRun(file.parent.name, RunRecord.read(file.parent), rows))
    if not runs:
        raise UsageError(f"no run with metrics.jsonl below {', '.join(map(str, paths))}")
    return runs


def read_rows(directory):
    """The metrics of the epochs that a run has finished, [] for one that has not begun."""
    file = Path(directory, "metrics.jsonl")
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def group_runs(runs):
    """Trials of one setting together: {label: [FoundRun, ...]}, in the order of first appearance.

    Two runs are of one setting when their options and their teacher's weights are equal, but for trial and seed.
    """
    groups = {}
    for run in runs:
        groups.setdefault(run.record.setting(), []).append(run)
    labels = {}
    for setting, members in groups.items():
        label = _label(members[0])
        if label in labels:  # the same networks and method under other options: say which
            label += " " + _difference(setting, labels[label][0].record.setting())
        labels[label] = members
    return labels


def table(groups):
    """Markdown tables as text: of networks, then of tuned heads, whichever there are."""
    networks, heads = split_groups(groups)
    return "\n\n".join(draw(part) for part, draw in ((networks, _network_table), (heads, _head_table)) if part)


def split_groups(groups):
    """The groups of networks, and those of heads that train_heads.py tuned."""
    heads = {label for label, runs in groups.items() if runs[0].is_heads}
    return tuple({label: runs for label, runs in groups.items() if (label in heads) == wanted}
                 for wanted in (False, True))


def _network_table(groups):
    """Test accuracy of the last and the best epoch as mean ± standard deviation over the trials."""
    lines = ["| run | epochs | trials | last, % | best, % | parameters | time |",
             "|---|---|---|---|---|---|---|"]
    for label, runs in groups.items():
        last, best = [run.last for run in runs], [run.best for run in runs]
        seconds = mean(sum(row["seconds"] for row in run.rows) for run in runs)
        lengths = sorted({len(run.rows) for run in runs})  # several while some still run
        epochs = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else lengths[0]
        lines.append(f"| {label} | {epochs} | {len(runs)} | {spread(last)} | {spread(best)} | "
                     f"{runs[0].record.facts['parameters']:,} | {_duration(seconds)} |")
    return "\n".join(lines)


def _head_table(groups):
    """Test accuracy of each head at its best epoch, that of the file that teaches, as mean ± standard deviation."""
    accuracies = {label: head_accuracies(runs) for label, runs in groups.items()}
    stages = sorted({stage for by_stage in accuracies.values() for stage in by_stage})
    lines = ["| heads | trials | " + "".join(f"stage {stage}, % | " for stage in stages) + "teacher, % | parameters |",
             "|---|---|" + "---|" * len(stages) + "---|---|"]
    for label, runs in groups.items():
        cells = [spread(accuracies[label][stage]) if stage in accuracies[label] else "-" for stage in stages]
        teacher = teacher_accuracies(runs)
        lines.append(f"| {label} | {len(runs)} | {' | '.join(cells)} | {spread(teacher) if teacher else '-'} | "
                     f"{runs[0].record.facts['parameters']:,} |")
    return "\n".join(lines)


def head_accuracies(runs):
    """{stage: [test accuracy in each trial]}, each of the epoch whose head was kept: the one of its lowest loss."""
    found = {}
    for run in runs:
        split = task.choosing_split(run.rows[0])
        for name in task.parts(run.rows[0]):
            loss, _ = task.part(split, name)
            kept = min(run.rows, key=lambda row, loss=loss: row[loss])
            found.setdefault(int(name.removeprefix("head")), []).append(kept[task.part("test", name)[1]])
    return found


def teacher_accuracies(runs):
    """Of the runs that measured their teacher's."""
    return [run.teacher["accuracy"] for run in runs if run.teacher.get("accuracy") is not None]


def _label(run):
    options, facts = run.record.options, run.record.facts
    if run.is_heads:
        return f"{options['head_type']} heads of {facts['arch']}"
    if run.record.kind == "teacher":
        return options["model"] + _head(facts.get("inputs", {}))
    if not run.teacher:
        return f"{options['distill']}: {options['model_s']}"
    return f"{options['distill']}: {run.teacher['arch']}{_head(run.teacher)} -> {options['model_s']}"


def _head(facts):
    """Whose classifier a network was trained with (SH-KD)."""
    return f" with the head of {facts['th'].rpartition('-')[0]}" if facts.get("th") else ""


def _difference(setting, other):
    changed = sorted((key, value.strip("\"")) for key, value in set(setting) - set(other))
    return "(" + ", ".join(f"{key} {value}" for key, value in changed) + ")"


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def spread(values):
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
