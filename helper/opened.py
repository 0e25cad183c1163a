"""From paths to the networks of earlier runs, their data, and what their checkpoints say."""
import dataclasses
import sys
from typing import NamedTuple

import torch
from torch import nn

from dataset import Data
from errors import UsageError
from helper.build import Head, open_data, open_loader, other_data
from helper.device import choose_device
from helper.loop import evaluate
from models import feature_shapes, get_classifier, open_checkpoint
from models.deploy import head_weight
from models.probe import weights_hash
from runs.record import RunRecord

SURPRISE = 0.5  # points between a teacher's recorded and measured accuracy that are worth a warning


def open_teacher(opt):
    """The checkpoint of --path_t, or None. Raises UsageError for what cannot be a teacher, before any data is looked
    at."""
    if opt.path_t is None:
        return None
    checkpoint = open_checkpoint(opt.path_t)
    if not checkpoint.deployment.is_student:
        _network(checkpoint, checkpoint.num_classes, opt.model_t)
    return checkpoint


def open_head(opt):
    """The Head of --path_th, or None. Raises UsageError, before any data is looked at."""
    if opt.path_th is None:
        return None
    checkpoint = open_checkpoint(opt.path_th)
    head = get_classifier(_network(checkpoint))
    return Head(head, f"{checkpoint.name}-{weights_hash(head)[:6]}", RunRecord.of_checkpoint(checkpoint.raw))


class Teacher(NamedTuple):
    """A teacher and what a record says of it.

    facts: {"arch", "path", "hash", "accuracy" (measured, %; None if it was not), "th" (whose classifier it was trained
        with, if another's)}.
    """

    network: nn.Module | None
    facts: dict

    @property
    def hash(self):
        """Digits of the weights, None without a teacher."""
        return self.facts.get("hash")


def make_teacher(checkpoint, opt, device, data, test_loader, task):
    """The network of a checkpoint, frozen, its accuracy measured and compared with what the checkpoint says: a Teacher,
    of None without a checkpoint."""
    if checkpoint is None:
        return Teacher(None, {})
    teacher = _frozen(_network(checkpoint, data.num_classes, opt.model_t), device)
    feature_shapes(teacher, data.image_size)  # refuses a network that cannot take such images
    accuracy = None
    if not opt.skip_validation:
        accuracy = evaluate(teacher, test_loader, device, task)[task.metric]
        recorded = "" if checkpoint.accuracy is None else f" (its checkpoint says {checkpoint.accuracy:.2f}%)"
        print(f"teacher {teacher.name}: {accuracy:.2f}% on the test images{recorded}", flush=True)
        if recorded and abs(accuracy - checkpoint.accuracy) > SURPRISE:
            print("warning: the teacher's measured and recorded accuracies differ: another data set, class order or "
                  "normalisation?", file=sys.stderr)
    record = RunRecord.of_checkpoint(checkpoint.raw)
    shared = record.facts.get("inputs", {}).get("th") if record else None
    return Teacher(teacher, {"arch": teacher.name, "path": str(checkpoint.path), "hash": weights_hash(teacher),
                             "accuracy": accuracy, "th": shared})


class Scored(NamedTuple):
    """What evaluate.py compares. teacher may be None."""

    model: nn.Module
    teacher: nn.Module | None
    data: Data
    loader: object
    device: object


def open_for_scoring(opt):
    """The network of --path, the teacher of --path_t, and the images to score them on: Scored.

    The data set is the one that the checkpoint was trained on unless the options name another; so is the head that
    predicts.
    """
    device = choose_device(opt.gpu_id, opt.precision)
    checkpoint = open_checkpoint(opt.path)
    if not opt.th_inference is opt.validation_th_weight is None:
        weight = head_weight(opt.th_inference or 0, opt.validation_th_weight or 0.0)
        checkpoint = checkpoint.choosing(weight)
    data = _open_recorded_data(opt, RunRecord.of_checkpoint(checkpoint.raw))
    model = _frozen(checkpoint.deployed(data.num_classes, opt.model), device)
    teacher = None
    if opt.path_t:
        teacher = _frozen(_network(open_checkpoint(opt.path_t), data.num_classes, opt.model_t), device)
    loader = open_loader(data, getattr(data, opt.split), opt, device, opt.batch_size)
    return Scored(model, teacher, data, loader, device)


def open_for_comparison(opt):
    """What compare_heads.py compares: the networks of two checkpoints, and the images that both are to classify.

    The data set is the one that A was trained on, or else B, unless the options name another. With --dataset none, and
    where nothing names one, there is none.

    Returns:
        The two networks; dataset.Data and a loader of its --split, or None for both; helper.device.Device.

    Raises:
        UsageError: a network is more than a backbone and one linear classifier, or its weights are not finite; the
            networks, or they and the data set, differ in the number of classes.
    """
    device = choose_device(opt.gpu_id, opt.precision)
    a, b = (open_checkpoint(path) for path in (opt.path_a, opt.path_b))
    models = [_frozen(_compared(a, opt.model_a, "--model_a"), device),
              _frozen(_compared(b, opt.model_b, "--model_b"), device)]
    classes, others = (get_classifier(model).out_features for model in models)
    if classes != others:
        raise UsageError(f"{a.path} knows {classes} classes and {b.path} {others}: give two networks of one data set")
    data = _data_of_comparison(opt, [RunRecord.of_checkpoint(checkpoint.raw) for checkpoint in (a, b)])
    if data is None:
        return *models, None, None, device
    if data.num_classes != classes:
        raise UsageError(f"{a.path} knows {classes} classes and {data.name} has {data.num_classes}: give the --dataset "
                         "of its training, or none")
    for model in models:
        feature_shapes(model, data.image_size)  # refuses a network that cannot take such images
    return *models, data, open_loader(data, getattr(data, opt.split), opt, device, opt.batch_size), device


def _data_of_comparison(opt, records):
    """The data set for open_for_comparison, or None. records: of both runs, None for foreign files."""
    known = [record for record in records if record is not None]
    if len(known) == 2 and other_data(*(record.facts["data"] for record in known)):
        print("warning: A and B were trained on different data: their rows may be of different classes, and both see "
              "images normalised as for A", file=sys.stderr)
    if opt.dataset is None and not known:
        print("note: neither checkpoint tells its data set, so predictions are not compared: name one with --dataset",
              file=sys.stderr)
        return None
    return None if opt.dataset == "none" else _open_recorded_data(opt, known[0] if known else None)


def _compared(checkpoint, name, flag):
    """The network of a checkpoint, which has to have one linear classifier with finite weights."""
    if name is None and checkpoint.name is None:
        raise UsageError(f"{checkpoint.path} does not tell which network it holds: name it with {flag}")
    model = _network(checkpoint, name=name)
    if not all(parameter.isfinite().all() for parameter in get_classifier(model).parameters()):
        raise UsageError(f"{checkpoint.path} has a classifier whose weights are not finite: train it again")
    return model


def _open_recorded_data(opt, record):
    """The data set that the options ask for, with images in --split. What they leave open is as in a run's `record`, if
    it is that run's data set."""
    options = {} if record is None else record.options
    same = opt.dataset in (None, options.get("dataset"))
    facts = record.facts["data"] if record is not None else {}
    recorded = {**options, "image_size": facts.get("image_size")} if same else {}
    keys = (("dataset", "cifar100"), ("data_dir", "data"), ("image_size", None), ("holdout", 0))
    settled = {key: recorded.get(key, default) if opt[key] is None else opt[key] for key, default in keys}
    data = open_data(opt.but(**settled))
    if "mean" in facts:  # the network expects its own training set's normalisation, whatever it is scored on
        data = dataclasses.replace(data, mean=tuple(facts["mean"]), std=tuple(facts["std"]))
    if opt.split == "val" and data.val is data.test:
        raise UsageError(f"{data.name} has no validation images: give --split test, or the --holdout of the training")
    return data


def _frozen(model, device):
    return model.to(device.device, memory_format=torch.channels_last).eval().requires_grad_(False)


def _network(checkpoint, num_classes=None, name=None):
    """The network that a run evaluated. Raises UsageError if that is more than a backbone and a classifier."""
    model = checkpoint.deployed(num_classes, name)
    if not hasattr(model, "head"):
        raise UsageError(f"{checkpoint.path} does not predict by one classifier on its embedding, as a teacher has to: "
                         "use another network")
    return model
