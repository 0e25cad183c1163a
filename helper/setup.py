"""From options to the things that they name: device, data, networks."""
import dataclasses
import os
import sys
from argparse import Namespace
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn

from dataset import load_dataset, make_loader
from distiller_zoo import Method, get_method
from distiller_zoo.teacher_head import SharedHead
from errors import UsageError
from helper.checkpoint import weights_hash
from helper.device import choose_device, seed_everything
from helper.loop import evaluate
from models import check_batches, create_model, default_learning_rate, feature_shapes, get_classifier, open_checkpoint
from models.shared_head import TeacherHead, share_head

EVAL_PIXELS = {"cpu": 250 * 32**2, "cuda": 2000 * 32**2}  # a forward pass of an evaluation keeps no activations
SURPRISE = 0.5  # points between a teacher's recorded and measured accuracy that are worth a warning


class Head(NamedTuple):
    """A classifier to be shared, and the options of the run that trained it, {} where nothing tells them."""

    classifier: nn.Linear
    recorded: dict


def prepare(opt):
    """Device, data set and loaders that the options ask for; what the data set decides is added to `opt`.

    Returns:
        helper.device.Device, dataset.Data, and {"train": loader, "test": loader[, "val": loader]}.
    """
    device = choose_device(opt.gpu_id, opt.precision, opt.deterministic)
    opt.precision = device.precision
    data = open_data(opt)
    opt.image_size, opt.num_classes, opt.n_data = data.image_size, data.num_classes, data.n_data
    opt.targets, opt.data_identity = data.train.targets, data.identity
    opt.mean, opt.std = list(data.mean), list(data.std)
    scored = max(25, EVAL_PIXELS[device.device.type] // data.image_size**2)
    loaders = {"test": open_loader(data, data.test, opt, device, scored)}
    if data.val is not data.test:
        loaders["val"] = open_loader(data, data.val, opt, device, scored)
    loaders["train"] = open_loader(data, data.train, opt, device, opt.batch_size, train=True)
    return device, data, loaders


def open_data(opt):
    """The data set of --dataset and --data_dir; decoded folders are cached under --save_dir."""
    return load_dataset(opt.dataset, opt.data_dir, holdout=opt.holdout, image_size=opt.image_size,
                        cache_dir=os.path.join(opt.save_dir, "cache"))


def open_loader(data, images, opt, device, batch_size, train=False):
    """A loader of `images` by --loader: shuffled and augmented, seeded by --seed, for training."""
    return make_loader(data, images, kind=opt.loader, batch_size=batch_size, train=train, device=device.device,
                       seed=opt.seed if train else 0, num_workers=opt.num_workers,
                       padding_mode=opt.padding if train else "constant")


def make_network(name, opt, device, head=None):
    """A new network on the device, channels-last. Seeds every generator first: equal seeds start from equal weights.

    A learning rate that was not given becomes the architecture's published one.
    head: a Head, another network's classifier that is to be this one's, frozen. A warning is printed if it was trained
        on other data than opt's.
    """
    seed_everything(opt.seed, opt.deterministic)
    if opt.learning_rate is None:
        opt.learning_rate = default_learning_rate(name)
    model = create_model(name, opt.num_classes)
    check_batches(model, opt.image_size, opt.n_data, opt.batch_size)
    if head is not None:
        classes = head.classifier.out_features
        if classes != opt.num_classes:
            raise UsageError(f"the classifier to share is of {classes} classes, not {opt.num_classes}: give a network "
                             "that was trained on this data set")
        if other_data(head.recorded, vars(opt)):
            print(f"warning: the classifier to share was trained on other data ({head.recorded['dataset']}) than this "
                  f"run's ({opt.dataset}): its rows may be of different classes", file=sys.stderr)
        share_head(model, head.classifier, opt.th_adapter)
    return model.to(device.device, memory_format=torch.channels_last)


def make_student(teacher, opt, device):
    """The network of --model_s, its classifier its own, or the teacher's (--copy_head), or starting as that
    (--do_init_s_from_th)."""
    head = get_classifier(teacher) if opt.copy_head or opt.do_init_s_from_th else None
    student = make_network(opt.model_s, opt, device, Head(head, {}) if opt.copy_head else None)
    if opt.do_init_s_from_th:
        own = get_classifier(student)
        if own.weight.shape != head.weight.shape:
            raise UsageError(f"--do_init_s_from_th: the teacher's classifier reads {head.in_features} features and "
                             f"{opt.model_s}'s {own.in_features}: use networks of one width, or --copy_head, which "
                             "puts a trained adapter between")
        own.load_state_dict(head.state_dict())
    return student


def open_teacher(opt):
    """The checkpoint of --path_t, or None. Raises UsageError for what cannot be a teacher, before any data is looked
    at."""
    if opt.path_t is None:
        return None
    checkpoint = open_checkpoint(opt.path_t)
    if _deploys(checkpoint):
        _network(checkpoint, checkpoint.num_classes, opt.model_t)
    return checkpoint


def open_head(opt):
    """The Head of --path_th, or None; opt.th names it. Raises UsageError, before any data is looked at."""
    if opt.path_th is None:
        return None
    checkpoint = open_checkpoint(opt.path_th)
    head = get_classifier(_network(checkpoint))
    opt.th = f"{checkpoint.name}-{weights_hash(head)[:6]}"
    return Head(head, _recorded_options(checkpoint))


def make_teacher(checkpoint, opt, device, data, test_loader):
    """The network of a checkpoint, frozen, its accuracy measured and compared with what the checkpoint says.

    Returns:
        The network, and for the run's files {"teacher": {"arch", "path", "hash", "accuracy", "th" (whose classifier it
        was trained with, if another's)}}. None and {} without a checkpoint.
    """
    if checkpoint is None:
        return None, {}
    teacher = _frozen(_network(checkpoint, data.num_classes, opt.model_t), device)
    feature_shapes(teacher, opt.image_size)  # refuses a network that cannot take such images
    accuracy = None
    if not opt.skip_validation:
        accuracy = evaluate(teacher, test_loader, device)["acc"]
        recorded = "" if checkpoint.accuracy is None else f" (its checkpoint says {checkpoint.accuracy:.2f}%)"
        print(f"teacher {teacher.name}: {accuracy:.2f}% on the test images{recorded}", flush=True)
        if recorded and abs(accuracy - checkpoint.accuracy) > SURPRISE:
            print("warning: the teacher's measured and recorded accuracies differ: another data set, class order or "
                  "normalisation?", file=sys.stderr)
    opt.teacher_hash = weights_hash(teacher)
    return teacher, {"teacher": {"arch": teacher.name, "path": str(checkpoint.path), "hash": opt.teacher_hash,
                                 "accuracy": accuracy, "th": _recorded_options(checkpoint).get("th")}}


def open_for_scoring(opt):
    """What evaluate.py compares: the network of --path, the teacher of --path_t or None, a loader, the device.

    The data set is the one that the checkpoint was trained on unless the options name another; so is the head that
    predicts.
    """
    device = choose_device(opt.gpu_id, opt.precision)
    checkpoint = _with_choice(open_checkpoint(opt.path), opt)
    data = _open_recorded_data(opt, _recorded_options(checkpoint))
    model = _frozen(_deployed(checkpoint, data.num_classes, opt.model), device)
    teacher = None
    if opt.path_t:
        teacher = _frozen(_network(open_checkpoint(opt.path_t), data.num_classes, opt.model_t), device)
    loader = open_loader(data, getattr(data, opt.split), opt, device, opt.batch_size)
    return model, teacher, loader, device


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
    data = _data_of_comparison(opt, [_recorded_options(checkpoint) for checkpoint in (a, b)])
    if data is None:
        return *models, None, None, device
    if data.num_classes != classes:
        raise UsageError(f"{a.path} knows {classes} classes and {data.name} has {data.num_classes}: give the --dataset "
                         "of its training, or none")
    for model in models:
        feature_shapes(model, data.image_size)  # refuses a network that cannot take such images
    return *models, data, open_loader(data, getattr(data, opt.split), opt, device, opt.batch_size), device


def _data_of_comparison(opt, recorded):
    """The data set for open_for_comparison, or None. recorded: the options of both runs, {} for foreign files."""
    known = [options for options in recorded if "dataset" in options]
    if other_data(*recorded):
        print("warning: A and B were trained on different data: their rows may be of different classes, and both see "
              "images normalised as for A", file=sys.stderr)
    if opt.dataset is None and not known:
        print("note: neither checkpoint tells its data set, so predictions are not compared: name one with --dataset",
              file=sys.stderr)
        return None
    return None if opt.dataset == "none" else _open_recorded_data(opt, known[0] if known else {})


def other_data(a, b):
    """Do the options of two runs tell that their data sets differ, by name or by the mean of their images?"""
    return any(a[key] != b[key] for key in ("dataset", "mean") if key in a and key in b)


def _compared(checkpoint, name, flag):
    """The network of a checkpoint, which has to have one linear classifier with finite weights."""
    if name is None and checkpoint.name is None:
        raise UsageError(f"{checkpoint.path} does not tell which network it holds: name it with {flag}")
    model = _network(checkpoint, name=name)
    if not all(parameter.isfinite().all() for parameter in get_classifier(model).parameters()):
        raise UsageError(f"{checkpoint.path} has a classifier whose weights are not finite: train it again")
    return model


def _with_choice(checkpoint, opt):
    """The checkpoint as if its run had been given --th_inference and --validation_th_weight as they are in `opt`."""
    keys = ("th_inference", "validation_th_weight")
    given = {key: getattr(opt, key) for key in keys if getattr(opt, key) is not None}
    if not given:
        return checkpoint
    recorded = _recorded_options(checkpoint)
    distill = recorded.get("distill") if "teacher" in checkpoint.raw else None
    if distill is None or not issubclass(get_method(distill), SharedHead):
        raise UsageError(f"{checkpoint.path} is no run of METHOD+th, between whose heads --th_inference and "
                         "--validation_th_weight choose: leave them out")
    options = recorded | dict.fromkeys(keys, 0) | given
    return dataclasses.replace(checkpoint, raw=checkpoint.raw | {"options": options, "deploys": True})


def _recorded_options(checkpoint):
    """The options in a checkpoint as a dict, {} where there are none; published files hold argparse's Namespace."""
    options = checkpoint.raw.get("options") or {}
    return vars(options) if isinstance(options, Namespace) else options


def _open_recorded_data(opt, recorded):
    """The data set that the options ask for, what they leave open being as `recorded` in a run's options; with images
    in --split."""
    for key, default in (("dataset", "cifar100"), ("data_dir", "data"), ("image_size", None), ("holdout", 0)):
        if getattr(opt, key) is None:
            setattr(opt, key, recorded.get(key, default))
    data = open_data(opt)
    if "mean" in recorded:  # the network expects its own training set's normalisation, whatever it is scored on
        data = dataclasses.replace(data, mean=tuple(recorded["mean"]), std=tuple(recorded["std"]))
    if opt.split == "val" and data.val is data.test:
        raise UsageError(f"{data.name} has no validation images: give --split test, or the --holdout of the training")
    return data


def _frozen(model, device):
    return model.to(device.device, memory_format=torch.channels_last).eval().requires_grad_(False)


def _network(checkpoint, num_classes=None, name=None):
    """The network that a run evaluated. Raises UsageError if that is more than a backbone and a classifier."""
    model = _deployed(checkpoint, num_classes, name)
    if not hasattr(model, "head"):
        raise UsageError(f"{checkpoint.path} does not predict by one classifier on its embedding, as a teacher has to: "
                         "use another network")
    return model


def _deployed(checkpoint, num_classes=None, name=None):
    """What a run evaluated: its network, or what its method's `deploy` made of it, from the checkpoint alone."""
    student = checkpoint.build(num_classes, name)
    if not _deploys(checkpoint):
        return student
    options = SimpleNamespace(**checkpoint.raw["options"])
    teacher = create_model(checkpoint.raw["teacher"]["arch"], options.num_classes)
    return get_method(options.distill).redeploy(student, teacher, options, checkpoint.raw["method"])


def _deploys(checkpoint):
    """Is what this run evaluates something else than its student?"""
    if "deploys" in checkpoint.raw:
        return checkpoint.raw["deploys"]
    distill = (checkpoint.raw.get("options") or {}).get("distill") if "teacher" in checkpoint.raw else None
    return distill is not None and get_method(distill).deploy is not Method.deploy


def network_facts(name, network, deployed, opt, device):
    """What a run's files say of its network, and of what is deployed in its place, if anything is: `deploys`;
    `parameters` counts what is deployed, an adapter as folded into its classifier."""
    return {"arch": name, "num_classes": opt.num_classes, "imagenet": False, "deploys": deployed is not network,
            "parameters": _count_parameters(deployed), "hardware": device.describe()}


def _count_parameters(network):
    """Of what whoever opens the checkpoint gets."""
    adapted = [head for head in network.modules() if isinstance(head, TeacherHead) and head.adapter is not None]
    return _numel(network) + sum(_numel(head.folded()) - _numel(head) for head in adapted)


def _numel(module):
    return sum(p.numel() for p in module.parameters())
