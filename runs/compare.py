"""Compares two networks' linear classifiers: the numbers, text and picture of compare_heads.py."""
import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

from errors import UsageError
from flags import PICTURES
from models import get_classifier
from tasks import CLASSIFICATION as task

NAMED_CLASSES = 20  # up to this number of classes, their names are legible along the axes
ROUNDING = 1e-6  # cosines of float32 weights that differ by less count as equal
_LONGEST_NAME = 100  # bytes of each network's name in the picture's file name; file systems allow 255


def compare(model_a, model_b):
    """Compares the linear classifiers of two networks with the same number of classes.

    Returns:
        A dict with the entries
        a, b: {"arch", "width" (of the embedding), "includes_adapter" (whether the classifier is another network's,
            folded with the adapter before it)};
        classes: the number of classes;
        weights: see compare_weights; absent if the widths differ;
        biases: see compare_biases; absent if a classifier has none;
        similarity_correlation: absent if undefined.

    Raises:
        UsageError: a network has no linear classifier.
    """
    a, b = get_classifier(model_a), get_classifier(model_b)
    numbers = {key: {"arch": model.name, "width": head.in_features,
                     "includes_adapter": getattr(head, "includes_adapter", False)}
               for key, model, head in (("a", model_a, a), ("b", model_b, b))}
    numbers["classes"] = a.out_features
    if a.in_features == b.in_features:
        numbers["weights"] = compare_weights(a.weight, b.weight)
    if a.bias is not None and b.bias is not None:
        numbers["biases"] = compare_biases(a.bias, b.bias)
    correlation = similarity_correlation(a.weight, b.weight)
    if correlation is not None:
        numbers["similarity_correlation"] = correlation
    return numbers


def compare_weights(a, b):
    """Statistics over the classes of the cosine between a class's row in one classifier and its row in the other.

    They are HeadSharingKD's numbers. std is the population's (divisor K).

    Shapes: a, b (K, D) -> {"mean", "mean_abs", "std", "max_abs"}, each in [-1, 1].
    """
    cosine = cosines(a, b).diagonal()  # (K,)
    return {"mean": cosine.mean().item(), "mean_abs": cosine.abs().mean().item(),
            "std": cosine.std(correction=0).item(), "max_abs": cosine.abs().max().item()}


def compare_biases(a, b):
    """The L2 norm and the mean absolute value of the difference of two biases, and the cosine between them.

    The cosine is 0 if a bias is zero.

    Shapes: a, b (K,) -> {"l2", "abs", "cos"}.
    """
    difference = _exact(a) - _exact(b)
    return {"l2": difference.norm().item(), "abs": difference.abs().mean().item(),
            "cos": cosines(a[None], b[None]).item()}


def similarity_correlation(a, b):
    """Pearson correlation of two classifiers' class similarities, over the pairs of classes.

    The similarity of two classes is the cosine between their rows of one classifier.

    Shapes: a (K, D), b (K, D') -> a float in [-1, 1]; None below three classes, and if all cosines of one are equal.
    """
    pairs = torch.stack([_pairs(a), _pairs(b)])  # (2, K (K - 1) / 2)
    if pairs.shape[1] < 2 or pairs.std(dim=1).min() < ROUNDING:
        return None
    return torch.corrcoef(pairs)[0, 1].item()


def cosines(a, b):
    """Cosines between the rows of two matrices; 0 if a row is zero.

    Shapes: a (K, D), b (K', D) -> (K, K'), float64, on the CPU.
    """
    return (F.normalize(_exact(a), dim=1) @ F.normalize(_exact(b), dim=1).T).clamp(-1, 1)  # rounding gives 1 + 2e-16


def predictions(scores):
    """{"agreement": % of images to which both networks give the same class, "acc_a", "acc_b": %, "images": number}.

    scores: the detailed scores of A with B as its teacher (helper.loop.evaluate).
    """
    return {"agreement": scores["agreement"], "acc_a": scores[task.metric], "acc_b": scores["teacher_acc"],
            "images": scores["images"]}


def describe(numbers, opt):
    """The numbers of `compare` as readable lines."""
    lines = []
    for key, path in (("a", opt.path_a), ("b", opt.path_b)):
        network = numbers[key]
        adapted = ", its classifier including the adapter" if network["includes_adapter"] else ""
        lines.append(f"{key.upper()}  {path} ({network['arch']}, {network['width']} features, {numbers['classes']} "
                     f"classes{adapted})")
    if "weights" in numbers:
        w = numbers["weights"]
        lines.append(f"cosines of A's rows with B's   mean {w['mean']:.4f}   mean |cosine| {w['mean_abs']:.4f}   "
                     f"std {w['std']:.4f}   largest |cosine| {w['max_abs']:.4f}")
    else:
        lines.append("cosines of A's rows with B's   none: rows of different widths")
    if "biases" in numbers:
        c = numbers["biases"]
        lines.append(f"biases   distance {c['l2']:.4f}   mean |difference| {c['abs']:.4f}   cosine {c['cos']:.4f}")
    if "similarity_correlation" in numbers:
        lines.append(f"class similarities   correlation {numbers['similarity_correlation']:.4f}")
    else:
        lines.append("class similarities   no correlation: fewer than three classes, or all alike")
    if "predictions" in numbers:
        p = numbers["predictions"]
        lines.append(f"predictions   same class {p['agreement']:.2f}%   A right {p['acc_a']:.2f}%   "
                     f"B right {p['acc_b']:.2f}%   ({p['images']} {p['split']} images of {p['dataset']})")
    return "\n".join(lines)


def write_json(path, numbers, opt):
    """Writes the numbers of `compare` and the paths of the two networks to a JSON file."""
    named = {key: {"path": given, **numbers[key]} for key, given in (("a", opt.path_a), ("b", opt.path_b))}
    Path(path).write_text(json.dumps(numbers | named, indent=1) + "\n")


def check_targets(opt):
    """The path of the picture: --plot, or heads_A_B.png in --save_dir. Call it before anything is computed.

    Raises UsageError for a file or folder that cannot be written, and for an extension of --plot or --json that is not
    a picture's or JSON's.
    """
    for flag, path, suffixes in (("--json", opt.json, (".json",)), ("--plot", opt.plot, PICTURES)):
        if path is not None:
            _check_file(flag, Path(path), suffixes)
    if opt.plot is not None:
        return Path(opt.plot)
    folder = Path(opt.save_dir)
    _check_folder(folder)
    return folder / f"heads_{_file_name(opt.path_a)}_{_file_name(opt.path_b)}.png"


def draw(model_a, model_b, opt, file, classes=None):
    """Draws a picture of two classifiers into `file`.

    It has a heat map of the class similarities of each classifier. If the widths are equal, it also has a heat map of
    the cosines between the rows of A and the rows of B, and a histogram of that map's diagonal; otherwise a histogram
    of the class similarities.

    classes: names along the axes, used up to NAMED_CLASSES classes; None: their numbers.
    """
    from matplotlib.figure import Figure  # here, because it takes a second to import

    a, b = get_classifier(model_a).weight, get_classifier(model_b).weight
    names = (classes or [str(i) for i in range(len(a))]) if len(a) <= NAMED_CLASSES else None
    equal = a.shape == b.shape
    figure = Figure(figsize=(11, 9.5), layout="constrained")
    figure.suptitle("\n".join(f"{key}: {_shown(label(path), 90)} ({model.name})" for key, path, model in
                              (("A", opt.path_a, model_a), ("B", opt.path_b, model_b))), fontsize=10)
    axes = figure.subplot_mosaic("ab\nch" if equal else "ab\nhh")
    limit = max(_largest(_pairs(a)), _largest(_pairs(b)))
    for key, weight in (("a", a), ("b", b)):
        name = key.upper()
        similarity = cosines(weight, weight).fill_diagonal_(torch.nan)  # the diagonal, 1, is outside the colour scale
        _heat_map(axes[key], similarity, limit, names, f"class similarity in {name} (diagonal: 1)", name, name)
    if equal:
        cross = cosines(a, b)
        _heat_map(axes["c"], cross, _largest(cross), names, "cosines between rows of A and rows of B", "A", "B")
        _histogram(axes["h"], {"": cross.diagonal()}, "cosine of a class's row in A with its row in B", "classes")
    else:
        _histogram(axes["h"], {"A": _pairs(a), "B": _pairs(b)}, "similarity of two classes", "pairs of classes")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks are drawn as boxes
        figure.savefig(file, dpi=120)


def label(path):
    """The name of the network at a path: its run's directory, or the file's stem outside our run directories."""
    path = Path(path).resolve()
    if path.is_dir():
        return path.name
    if path.stem == "last":
        return path.parent.name
    if re.fullmatch(r"best|ckpt_epoch_\d+", path.stem):
        return f"{path.parent.name}_{path.stem}"
    return path.stem


def _exact(tensor):
    """The tensor in float64 on the CPU, so that printed numbers do not depend on the device or the order of sums."""
    return tensor.detach().cpu().double()


def _pairs(weight):
    """Cosine of the rows of each pair of classes: (K, D) -> (K (K - 1) / 2,)."""
    rows, columns = torch.triu_indices(len(weight), len(weight), offset=1)
    return cosines(weight, weight)[rows, columns]


def _largest(values):
    """The largest absolute value; 1 if it is zero or there are no values, because a colour scale needs an extent."""
    return (values.abs().max().item() if values.numel() else 0) or 1


def _heat_map(axes, values, limit, names, title, row_title, column_title):
    """Draws a matrix of cosines (K, K): white at 0, full colours at -limit and limit, grey for NaN."""
    image = axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set(title=title, xlabel=f"class in {column_title}", ylabel=f"class in {row_title}", facecolor="0.6")
    if names:
        shown = [_shown(name, 16) for name in names]
        long = max(map(len, shown)) > 2
        axes.set_xticks(range(len(shown)), shown, rotation=90 if long else 0, fontsize=8 if long else 10)
        axes.set_yticks(range(len(shown)), shown, fontsize=8 if long else 10)
    else:
        axes.locator_params(integer=True)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="cosine")


def _histogram(axes, groups, title, counted):
    """Draws a histogram of the cosines of each group, {name or "": (N,)}, in common bins, with a line at its mean."""
    values = torch.cat(list(groups.values()))
    low, high = (values.min().item(), values.max().item()) if values.numel() else (0, 0)
    if high - low < 0.02:  # such as for a shared classifier: one bar in the middle, not many bars of rounding errors
        low, high = low - 0.05, high + 0.05
    bins = 11 if values.numel() < 100 else 31
    for name, group in groups.items():
        _, _, (bar, *_) = axes.hist(group.numpy(), bins=bins, range=(low, high), alpha=0.6)
        if group.numel():
            axes.axvline(group.mean().item(), color=bar.get_facecolor(), alpha=1, linestyle="--",
                         label=f"mean{name and ' of '}{name} {group.mean():.3f}")
    axes.set(title=title, xlabel="cosine", ylabel=counted)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.3)
    if values.numel():
        axes.legend()


def _shown(text, length):
    """The first `length` characters of a text. Dollars are escaped, because matplotlib reads them as mathematics."""
    return (text if len(text) <= length else text[:length - 1] + "…").replace("$", r"\$")


def _file_name(path):
    """label(path) as a part of a file name. A long label is truncated and gets a digest, which keeps it unique."""
    name = re.sub(r"[^\w.+-]", "-", label(path))
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:6]
        name = name.encode()[:_LONGEST_NAME - 7].decode(errors="ignore") + "_" + digest
    return name


def _check_file(flag, path, suffixes):
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{flag} {path}: give a name that ends in {' or '.join(suffixes)}")
    existed = path.exists()
    try:
        path.open("ab").close()  # permissions do not suffice: a file system may be full or read-only
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error.strerror}") from error
    if not existed:
        path.resolve().unlink()  # for a dangling link, the file that it names


def _check_folder(folder):
    """Raises UsageError unless the folder exists or can be created, and can be written to."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"--save_dir {folder}: {nearest} is no folder that can be written to")
