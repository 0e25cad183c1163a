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

from distiller_zoo import get_method, methods, modifiers
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


def methods_table():
    """Every registered method: its paper and its default weights."""
    lines = ["| `--distill` | paper | -r (CE) | -a (KL) | -b (method) | --delta | --kd_T | weights from |",
             "|---|---|---|---|---|---|---|---|"]
    for name in methods:
        method = get_method(name)
        lines.append(f"| `{name}` | {method.paper} | {_numbers(method.weights)} | {method.weights.source} |")
    return "\n".join(lines)


def modifiers_table():
    """Every registered modifier: its paper, and what it makes of the weights of kd."""
    lines = ["| `--distill` | paper | -r (CE) | -a (KL) | -b (method) | --delta | --kd_T |",
             "|---|---|---|---|---|---|---|"]
    for name in modifiers:
        method = get_method(f"kd+{name}")
        lines.append(f"| `kd+{name}` | {method.paper} | {_numbers(method.weights)} |")
    return "\n".join(lines)


def _numbers(weights):
    values = weights.gamma, weights.alpha, weights.beta, weights.delta, weights.kd_T
    return " | ".join(f"{value:g}" for value in values)


def names(registry):
    """The registered names as a paragraph."""
    return textwrap.fill(", ".join(f"`{name}`" for name in registry), 119, break_long_words=False) + "."


# What stands between <!-- KEY: scripts/update_docs.py --> and <!-- end of KEY -->.
GENERATED = {
    "README.md": {"method names": lambda: names(methods),
                  "model names": lambda: names(name for name in model_dict if name not in aliases)},
    "docs/methods.md": {"methods": methods_table, "modifiers": modifiers_table},
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
