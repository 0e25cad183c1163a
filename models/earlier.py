"""Converts checkpoints of earlier versions of this project to the present format.

Earlier versions described the deployed network by the options of its method, and kept a modifier's state within the
method's state.
"""
from collections.abc import Mapping

import torch

from models.deploy import Deployment, head_weight
from models.probe import pooled_shape
from models.registry import create_model

WITH_HEAD = {"kdth": "kd+th", "kdeth": "kde+th", "crdth": "crd+th"}


def updated(raw):
    """The dict of a checkpoint with the entries `deployment` and `modifiers`; present and foreign files unchanged."""
    options = raw.get("options")
    if {"optimizer", "method"} <= raw.keys() and not {"options", "modifiers"} & raw.keys():  # of a first stage
        method, head = _split(raw["method"])
        return raw | {"method": method, "modifiers": head}
    if "deployment" in raw or not isinstance(options, Mapping) or not {"arch", "num_classes"} <= raw.keys():
        return raw
    name = options.get("distill") if "teacher" in raw else None
    method, *modifiers = WITH_HEAD.get(name, name or "").split("+")
    state, deployment = raw.get("method") or {}, Deployment()
    if "th" in modifiers:
        state, modifiers_state = _split(state)
        raw = raw | {"modifiers": modifiers_state}
        head = {key.removeprefix("th.head."): tensor for key, tensor in modifiers_state.items()}
        deployment = _shared_head(head, options)
    if method == "simkd":
        deployment = _reused_classifier(state, options, raw["teacher"]["arch"])
        deployment.spec["beside_head"] = "th" in modifiers
    accuracy = {"accuracy": raw["metrics"]["test_acc"]} if raw.get("metrics", {}).get("test_acc") is not None else {}
    return {"modifiers": {}} | accuracy | raw | {"method": state, "deployment": deployment._asdict()}


def _split(state):
    """A method's state, of METHOD+th where it has head.*, as those of the method and of its modifiers."""
    head = {f"th.{key}": tensor for key, tensor in state.items() if key.startswith("head.")}
    if not head:
        return state, {}
    return {key.removeprefix("method."): tensor for key, tensor in state.items() if key.startswith("method.")}, head


def _shared_head(head, options):
    classes, t_width = head["weight"].shape
    adapter = head.get("adapter.weight")
    spec = {"width": t_width if adapter is None else adapter.shape[1], "t_width": t_width, "classes": classes,
            "bias": "bias" in head, "trained": adapter is None or options.get("delta", 0) > 0,
            "th_weight": head_weight(options.get("th_inference", 0), options.get("validation_th_weight", 0.0))}
    return Deployment("shared_head", spec, {"head": "modifiers.th.head"})


def _reused_classifier(state, options, teacher):
    first, last = state["projector.transfer.0.weight"], state["projector.transfer.6.weight"]
    classes = len(state["classifier.weight"])
    with torch.device("meta"):
        _, *t_size = pooled_shape(create_model(teacher, classes), options["image_size"])
    spec = {"s_channels": first.shape[1], "t_channels": last.shape[0], "factor": last.shape[0] // first.shape[0],
            "t_size": t_size, "image_size": options["image_size"], "classes": classes,
            "bias": "classifier.bias" in state}
    return Deployment("reused_classifier", spec, {"projector": "method.projector", "classifier": "method.classifier"})
