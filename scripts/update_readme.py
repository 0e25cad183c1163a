"""Write README's tables of models and methods anew from the registries (a test compares them).

    python scripts/update_readme.py
"""
import re
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distiller_zoo import methods
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
    """Every registered method: the paper from its file's first line, and its default weights."""
    lines = ["| `--distill` | paper | -r (CE) | -a (KL) | -b (method) | weights from |", "|---|---|---|---|---|---|"]
    for name, method in methods.items():
        w = method.weights
        paper = sys.modules[method.__module__].__doc__.splitlines()[0]
        lines.append(f"| `{name}` | {paper} | {w.gamma:g} | {w.alpha:g} | {w.beta:g} | {w.source} |")
    return "\n".join(lines)


def updated(text):
    """README's text with its tables as they should be."""
    for key, table in (("models", models_table()), ("methods", methods_table())):
        begin, end = f"<!-- {key}: scripts/update_readme.py -->", f"<!-- end of {key} -->"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, t=f"{begin}\n{table}\n{end}": t, text,
                      flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text()))
