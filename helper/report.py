"""Tables and curves over finished or running runs."""
import json
import re
from pathlib import Path
from statistics import mean, stdev

from errors import UsageError


def find_runs(paths):
    """Every run (a directory with options.json and metrics.jsonl) at or below `paths`, each as a dict.

    Returns:
        [{"name", "options", "rows"}], sorted by path; "rows" holds one dict of metrics per epoch.

    Raises:
        UsageError: nothing there.
    """
    files = {file for path in paths for file in Path(path).rglob("metrics.jsonl")}
    runs = []
    for file in sorted(files):
        rows = [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if rows and (file.parent / "options.json").exists():
            options = json.loads((file.parent / "options.json").read_text())
            runs.append({"name": file.parent.name, "options": options, "rows": rows})
    if not runs:
        raise UsageError(f"no run with metrics.jsonl below {', '.join(map(str, paths))}")
    return runs


def group_runs(runs):
    """Trials of one setting together: {label: [run, ...]}, in the order of first appearance.

    Two runs are of one setting when their options and their teacher's weights are equal, but for trial and seed.
    """
    groups = {}
    for run in runs:
        groups.setdefault(_setting(run), []).append(run)
    labels = {}
    for setting, members in groups.items():
        label = _label(members[0])
        if label in labels:  # the same networks and method under other options: say which
            label += " " + _difference(setting, _setting(labels[label][0]))
        labels[label] = members
    return labels


def table(groups):
    """Markdown tables as text: of networks, then of tuned heads, whichever there are."""
    networks, heads = split_groups(groups)
    return "\n\n".join(draw(part) for part, draw in ((networks, _network_table), (heads, _head_table)) if part)


def split_groups(groups):
    """The groups of networks, and those of heads that train_heads.py tuned."""
    heads = {label for label, runs in groups.items() if "head_type" in runs[0]["options"]}
    return tuple({label: runs for label, runs in groups.items() if (label in heads) == wanted}
                 for wanted in (False, True))


def _network_table(groups):
    """Test accuracy of the last and the best epoch as mean ± standard deviation over the trials."""
    lines = ["| run | epochs | trials | last, % | best, % | parameters | time |",
             "|---|---|---|---|---|---|---|"]
    for label, runs in groups.items():
        last = [run["rows"][-1]["test_acc"] for run in runs]
        best = [_best(run["rows"])["test_acc"] for run in runs]
        seconds = mean(sum(row["seconds"] for row in run["rows"]) for run in runs)
        lengths = sorted({len(run["rows"]) for run in runs})  # several while some still run
        epochs = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else lengths[0]
        lines.append(f"| {label} | {epochs} | {len(runs)} | {_spread(last)} | {_spread(best)} | "
                     f"{runs[0]['options']['parameters']:,} | {_duration(seconds)} |")
    return "\n".join(lines)


def _head_table(groups):
    """Test accuracy of each head at its best epoch, that of the file that teaches, as mean ± standard deviation."""
    accuracies = {label: _head_accuracies(runs) for label, runs in groups.items()}
    stages = sorted({stage for by_stage in accuracies.values() for stage in by_stage})
    lines = ["| heads | trials | " + "".join(f"stage {stage}, % | " for stage in stages) + "teacher, % | parameters |",
             "|---|---|" + "---|" * len(stages) + "---|---|"]
    for label, runs in groups.items():
        cells = [_spread(accuracies[label][stage]) if stage in accuracies[label] else "-" for stage in stages]
        teacher = _teacher_accuracies(runs)
        lines.append(f"| {label} | {len(runs)} | {' | '.join(cells)} | {_spread(teacher) if teacher else '-'} | "
                     f"{runs[0]['options']['parameters']:,} |")
    return "\n".join(lines)


def _head_accuracies(runs):
    """{stage: [test accuracy in each trial]}, each of the epoch whose head was kept: the one of its lowest loss."""
    found = {}
    for run in runs:
        rows, split = run["rows"], "val" if "val_loss" in run["rows"][0] else "test"
        for stage in (int(key[9:-4]) for key in rows[0] if re.fullmatch(r"test_head\d+_acc", key)):
            kept = min(rows, key=lambda row: row[f"{split}_head{stage}_loss"])
            found.setdefault(stage, []).append(kept[f"test_head{stage}_acc"])
    return found


def _teacher_accuracies(runs):
    """Of the runs that measured their teacher's."""
    accuracies = (run["options"].get("teacher", {}).get("accuracy") for run in runs)
    return [accuracy for accuracy in accuracies if accuracy is not None]


def plot_heads(groups, path):
    """Test accuracy of tuned heads by the stage that they are on, the mean over the trials with a band from the lowest
    to the highest, and the accuracy of the teacher's own classifier as a line; as a PNG.

    Raises UsageError where there are no heads.
    """
    _, groups = split_groups(groups)
    if not groups:
        raise UsageError("no run of train_heads.py is there: --heads draws the accuracy of what it tunes")
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    teachers = {}
    for label, runs in groups.items():
        accuracies = sorted(_head_accuracies(runs).items())
        stages = [stage for stage, _ in accuracies]
        line, = axes.plot(stages, [mean(values) for _, values in accuracies], "o-", label=label)
        low, high = ([edge(values) for _, values in accuracies] for edge in (min, max))
        axes.fill_between(stages, low, high, color=line.get_color(), alpha=0.2)
        teachers |= dict.fromkeys((runs[0]["options"]["arch"], accuracy) for accuracy in _teacher_accuracies(runs))
    styles = ["--", ":", "-."]
    for i, (arch, accuracy) in enumerate(teachers):
        axes.axhline(accuracy, color="0.3", linestyle=styles[i % len(styles)],
                     label=f"{arch}'s own classifier: {accuracy:.2f}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="stage of the network that the head reads", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _networks(groups):
    networks, _ = split_groups(groups)
    if not networks:
        raise UsageError("no run of a network is there, only heads: draw those with --heads")
    return networks


def plot(groups, path):
    """Test accuracy of networks by epoch, the mean over the trials with a band from the lowest to the highest, as a
    PNG."""
    groups, plt = _networks(groups), _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    lows = []
    for label, runs in groups.items():
        epochs = min(len(run["rows"]) for run in runs)
        curves = [[row["test_acc"] for row in run["rows"][:epochs]] for run in runs]
        by_epoch = list(zip(*curves, strict=True))
        x = range(1, epochs + 1)
        legend = f"{label}: {_spread([curve[-1] for curve in curves])}"
        line, = axes.plot(x, [mean(values) for values in by_epoch], label=legend)
        low, high = [min(values) for values in by_epoch], [max(values) for values in by_epoch]
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2)
        lows.append(mean(by_epoch[epochs // 4]))
    axes.set_ylim(bottom=max(0, min(lows) - 10))  # the first quarter's climb would flatten what comes after
    axes.set(xlabel="epoch", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", title="last epoch")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def bars(groups, path):
    """Test accuracy of networks after the last epoch, the best on top: the mean over the trials, a dot for each, as a
    PNG.

    Runs without distillation are drawn in grey, and a line marks the best of them that is a student's network.
    """
    groups, plt = _networks(groups), _pyplot()
    scores = {label: [run["rows"][-1]["test_acc"] for run in runs] for label, runs in groups.items()}
    order = sorted(scores, key=lambda label: mean(scores[label]))
    alone = [label for label in order if "distill" not in groups[label][0]["options"]]
    figure, axes = plt.subplots(figsize=(8, 1 + 0.3 * len(order)), layout="constrained")
    axes.barh(order, [mean(scores[label]) for label in order],
              color=["0.6" if label in alone else "tab:blue" for label in order])
    for label in order:
        axes.plot(scores[label], [label] * len(scores[label]), "k.", markersize=4)
    students = {runs[0]["options"].get("model_s") for runs in groups.values()}
    marked = [label for label in alone if groups[label][0]["options"].get("model") in students] or alone
    for label in marked[-1:]:
        axes.axvline(mean(scores[label]), color="0.3", linestyle=":")
    low = min(min(values) for values in scores.values())
    axes.set_xlim(left=max(0, low - 5))  # differences are what the chart is for
    axes.set_xlabel("test accuracy after the last epoch, %")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pyplot():
    import matplotlib  # here, because it takes a second to import
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    return plt


_NOT_A_SETTING = {"trial", "seed", "name", "path_t", "teacher", "command", "hardware", "torch", "overwrite", "gpu_id",
                  "num_workers", "save_dir", "print_freq", "save_freq", "skip_validation", "mean", "std",
                  "data_identity", "n_data", "num_classes", "parameters", "imagenet"}


def _setting(run):
    settings = {key: value for key, value in run["options"].items() if key not in _NOT_A_SETTING}
    settings["teacher"] = run["options"].get("teacher", {}).get("arch")
    return tuple(sorted((key, json.dumps(value)) for key, value in settings.items()))


def _label(run):
    options = run["options"]
    if "head_type" in options:
        return f"{options['head_type']} heads of {options['arch']}"
    if "distill" not in options:
        return options["model"] + _head(options)
    if "teacher" not in options:
        return f"{options['distill']}: {options['model_s']}"
    teacher = options["teacher"]
    return f"{options['distill']}: {teacher['arch']}{_head(teacher)} -> {options['model_s']}"


def _head(options):
    """Whose classifier a network was trained with (SH-KD)."""
    return f" with the head of {options['th'].rpartition('-')[0]}" if options.get("th") else ""


def _difference(setting, other):
    changed = sorted((key, value.strip("\"")) for key, value in set(setting) - set(other))
    return "(" + ", ".join(f"{key} {value}" for key, value in changed) + ")"


def _best(rows):
    return max(rows, key=lambda row: row.get("val_acc", row["test_acc"]))


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _spread(values):
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
