"""Pictures over runs: learning curves, bars, the accuracy of heads by depth."""
from statistics import mean

from errors import UsageError
from runs.report import head_accuracies, split_groups, spread, teacher_accuracies
from tasks import CLASSIFICATION as task


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
        accuracies = sorted(head_accuracies(runs).items())
        stages = [stage for stage, _ in accuracies]
        line, = axes.plot(stages, [mean(values) for _, values in accuracies], "o-", label=label)
        low, high = ([edge(values) for _, values in accuracies] for edge in (min, max))
        axes.fill_between(stages, low, high, color=line.get_color(), alpha=0.2)
        teachers |= dict.fromkeys((runs[0].record.facts["arch"], accuracy) for accuracy in teacher_accuracies(runs))
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
        epochs = min(len(run.rows) for run in runs)
        curves = [[task.value(row) for row in run.rows[:epochs]] for run in runs]
        by_epoch = list(zip(*curves, strict=True))
        x = range(1, epochs + 1)
        legend = f"{label}: {spread([curve[-1] for curve in curves])}"
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
    scores = {label: [run.last for run in runs] for label, runs in groups.items()}
    order = sorted(scores, key=lambda label: mean(scores[label]))
    alone = [label for label in order if groups[label][0].record.kind == "teacher"]
    figure, axes = plt.subplots(figsize=(8, 1 + 0.3 * len(order)), layout="constrained")
    axes.barh(order, [mean(scores[label]) for label in order],
              color=["0.6" if label in alone else "tab:blue" for label in order])
    for label in order:
        axes.plot(scores[label], [label] * len(scores[label]), "k.", markersize=4)
    students = {runs[0].record.options.get("model_s") for runs in groups.values()}
    marked = [label for label in alone if groups[label][0].record.options.get("model") in students] or alone
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
