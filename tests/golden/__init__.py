"""Expected values of the published implementations, and the inputs that they were computed from.

The JSON files describe their own recipe for inputs, parameters and tolerances.
"""
import json
from pathlib import Path

import numpy as np
import torch

classic = json.loads((Path(__file__).parent / "classic.json").read_text())


def draw_inputs(case, dtype=torch.float32):
    """The inputs of a case of classic.json, in order: {name: tensor}; floating ones require a gradient in `dtype`."""
    rs = np.random.RandomState(case["seed"])
    drawn = {}
    for spec in case["inputs"]:
        drawn[spec["name"]] = _draw(rs, spec, drawn)
    return {name: torch.from_numpy(a).to(dtype).requires_grad_() if a.dtype.kind == "f" else torch.from_numpy(a)
            for name, a in drawn.items()}


def _draw(rs, spec, drawn):
    kind, shape, scale = spec["kind"], spec["shape"], np.float32(spec.get("scale", 1))
    if kind == "randn":
        return rs.randn(*shape).astype(np.float32) * scale
    if kind == "relu":
        return np.maximum(rs.randn(*shape), 0).astype(np.float32) * scale
    if kind == "randint":
        return rs.randint(spec["lo"], spec["hi"], size=shape)
    if kind == "perm":
        return rs.permutation(spec["n"])[: shape[0]]
    index = rs.randint(0, spec["n"], size=shape)  # "cidx": contrast indices, the positive in column 0
    index[:, 0] = drawn[spec["col0"]]
    return index
