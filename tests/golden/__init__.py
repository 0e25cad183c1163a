"""Expected values of the published implementations, and the inputs that they were computed from.

The JSON files describe their own recipe for inputs, parameters and tolerances.
"""
import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

classic = json.loads((Path(__file__).parent / "classic.json").read_text())
modern = json.loads((Path(__file__).parent / "modern.json").read_text())
heads = json.loads((Path(__file__).parent / "heads.json").read_text())["cases"]


def draw_inputs(case, dtype=torch.float32):
    """The inputs of a case of classic.json or modern.json, in order: {name: tensor}; floating ones require a gradient
    in `dtype`."""
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


_ARRAY = re.compile(r"(?:([\d.]+)\*)?(rn|ri)\((\d+)(?:\+[bij])?,([\d, ()]+)\)(\[:1\])?")


def draw(text, dtype=torch.float64, branch=0):
    """The first array that a text of heads.json describes: 1.5*rn(821,2,4,6,6), rn(300,2,3,32,32)[:1], or labels such
    as ri(102,4,10), which are int64; of 2*rn(201+b,4,10) that of the given branch."""
    scale, kind, seed, numbers, first = _ARRAY.search(text).groups()
    rs, numbers = np.random.RandomState(int(seed) + branch), [int(number) for number in re.findall(r"\d+", numbers)]
    if kind == "ri":
        count, classes = numbers
        return torch.from_numpy(rs.randint(0, classes, size=count))
    drawn = torch.from_numpy(rs.standard_normal(numbers)).to(dtype) * float(scale or 1)
    return drawn[:1] if first else drawn


def fill(module, base, scale=0.05, names=None):
    """`module`, its parameters drawn as heads.json says, each by a generator of its own, in the order of `names`."""
    parameters = dict(module.named_parameters())
    names = names or list(parameters)
    assert sorted(names) == sorted(parameters)
    for i, name in enumerate(names):
        layer, _, kind = name.rpartition(".")
        is_scale = kind == "weight" and isinstance(module.get_submodule(layer), nn.BatchNorm2d)
        drawn = np.random.RandomState(base + i).standard_normal(parameters[name].shape) * scale + is_scale
        parameters[name].data.copy_(torch.from_numpy(drawn))
    return module
