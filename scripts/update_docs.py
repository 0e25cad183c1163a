"""Write the tables and lists of methods and networks in README.md and docs/ from the registries (a test compares them).

    python scripts/update_docs.py
"""
import re
import sys
import textwrap
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distiller_zoo import get_method, methods
from distiller_zoo.modifiers import modifiers
from models import aliases, create_model, default_learning_rate, feature_shapes, model_dict


def models_table():
    """Every registered network: parameters at 100 classes, feature shapes at 32x32."""
    lines = ["| `--model` | parameters | stage maps (C x H x W) | embedding | learning rate |", "|---|---|---|---|---|"]
    for name in model_dict:
        if name in aliases:
            continue
        with torch.device("meta"):
            model = create_model(name, 100)
        _, *maps, embedding = feature_shapes(model, 32)
        shown = ", ".join(f"{c}x{h}x{w}" for c, h, w in maps)
        label = ", ".join(f"`{n}`" for n in [name, *(a for a, target in aliases.items() if target == name)])
        count = sum(p.numel() for p in model.parameters())
        lines.append(f"| {label} | {count:,} | {shown} | {embedding[0]} | {default_learning_rate(name):g} |")
    return "\n".join(lines)


def weights_table(names, sources=False):
    """Methods by name: paper and default weights, and where these are from."""
    more = ["weights from"] if sources else []
    head = ["`--distill`", "paper", "-r (CE)", "-a (KL)", "-b (method)", "--delta", "--kd_T", *more]
    rows = [head, ["---"] * len(head)]
    for name in names:
        method = get_method(name)
        w = method.weights
        values = [f"{value:g}" for value in (w.gamma, w.alpha, w.beta, w.delta, w.kd_T)]
        rows.append([f"`{name}`", method.paper, *values, *([w.source] if sources else [])])
    return "\n".join("|---" * len(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)


def names(registry):
    """The registered names as a paragraph."""
    return textwrap.fill(", ".join(f"`{name}`" for name in registry), 119, break_long_words=False) + "."


# What stands between <!-- KEY: scripts/update_docs.py --> and <!-- end of KEY -->.
GENERATED = {
    "README.md": {"method names": lambda: names(methods),
                  "model names": lambda: names(name for name in model_dict if name not in aliases)},
    "docs/methods.md": {"methods": lambda: weights_table(methods, sources=True),
                        "modifiers": lambda: weights_table(f"kd+{name}" for name in modifiers)},
    "docs/networks.md": {"models": models_table},
}


def updated(document, text):
    """The text of a document of GENERATED with its tables and lists as they should be.

    Raises:
        ValueError: the text lacks a pair of markers.
    """
    for key, make in GENERATED[document].items():
        begin, end = f"<!-- {key}: scripts/update_docs.py -->", f"<!-- end of {key} -->"
        made = f"{begin}\n{make()}\n{end}"
        text, found = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, made=made: made, text,
                              flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{document} has {found} places for {key}: it needs {begin} and {end} once")
    return text


if __name__ == "__main__":
    for document in GENERATED:
        file = ROOT / document
        file.write_text(updated(document, file.read_text()))
