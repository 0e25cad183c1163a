"""From options to the things that they name: device, data, networks."""
import dataclasses
import os
import sys
from types import SimpleNamespace

import torch

from dataset import load_dataset, make_loader
from distiller_zoo import Method, get_method
from errors import UsageError
from helper.checkpoint import weights_hash
from helper.device import choose_device, seed_everything
from helper.loop import evaluate
from models import create_model, default_learning_rate, feature_shapes, open_checkpoint

EVAL_BATCH = 250  # images per forward pass of an evaluation, which keeps no activations
SURPRISE = 0.5  # points between a teacher's recorded and measured accuracy that are worth a warning


def prepare(opt):
    """Device, data set and loaders that the options ask for; what the data set decides is added to `opt`.

    Returns:
        helper.device.Device, dataset.Data, and {"train": loader, "test": loader[, "val": loader]}.
    """
    device = choose_device(opt.gpu_id, opt.precision)
    opt.precision = device.precision
    data = open_data(opt)
    opt.image_size, opt.num_classes, opt.n_data = data.image_size, data.num_classes, data.n_data
    opt.targets, opt.data_identity = data.train.targets, data.identity
    opt.mean, opt.std = list(data.mean), list(data.std)
    loaders = {"test": open_loader(data, data.test, opt, device, EVAL_BATCH)}
    if data.val is not data.test:
        loaders["val"] = open_loader(data, data.val, opt, device, EVAL_BATCH)
    loaders["train"] = open_loader(data, data.train, opt, device, opt.batch_size, train=True)
    return device, data, loaders


def open_data(opt):
    """The data set of --dataset and --data_dir; decoded folders are cached under --save_dir."""
    return load_dataset(opt.dataset, opt.data_dir, holdout=opt.holdout, image_size=opt.image_size,
                        cache_dir=os.path.join(opt.save_dir, "cache"))


def open_loader(data, images, opt, device, batch_size, train=False):
    """A loader of `images` by --loader: shuffled and augmented, seeded by --seed, for training."""
    return make_loader(data, images, kind=opt.loader, batch_size=batch_size, train=train, device=device.device,
                       seed=opt.seed if train else 0, num_workers=opt.num_workers)


def make_network(name, opt, device):
    """A new network on the device, channels-last. Seeds every generator first: equal seeds start from equal weights.

    A learning rate that was not given becomes the architecture's published one.
    """
    seed_everything(opt.seed, opt.deterministic)
    if opt.learning_rate is None:
        opt.learning_rate = default_learning_rate(name)
    model = create_model(name, opt.num_classes)
    shapes = feature_shapes(model, opt.image_size)  # refuses a network that cannot take such images
    if (opt.n_data % opt.batch_size or opt.batch_size) == 1 and (1, 1) in [shape[1:] for shape in shapes]:
        raise UsageError(f"--batch_size {opt.batch_size} leaves a last batch of one image, whose 1x1 maps in {name} "
                         f"BatchNorm cannot normalise: use {opt.batch_size + 1}")
    return model.to(device.device, memory_format=torch.channels_last)


def open_teacher(opt):
    """The checkpoint of --path_t. Raises UsageError for what cannot be a teacher, before any data is looked at."""
    checkpoint = open_checkpoint(opt.path_t)
    if _deploys(checkpoint):
        raise UsageError(f"{checkpoint.path} predicts through its own teacher's classifier, and its student's is "
                         "untrained: use another teacher")
    return checkpoint


def make_teacher(checkpoint, opt, device, data, test_loader):
    """The network of a checkpoint, frozen, its accuracy measured and compared with what the checkpoint says.

    Returns:
        The network, and {"arch", "path", "hash", "accuracy"} of it for the run's files.
    """
    teacher = _frozen(checkpoint, data, opt.model_t, device)
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
    return teacher, {"arch": teacher.name, "path": str(checkpoint.path), "hash": opt.teacher_hash,
                     "accuracy": accuracy}


def open_for_scoring(opt):
    """What evaluate.py compares: the network of --path, the teacher of --path_t or None, a loader, the device.

    The data set is the one that the checkpoint was trained on unless the options name another.
    """
    device = choose_device(opt.gpu_id, opt.precision)
    checkpoint = open_checkpoint(opt.path)
    recorded = checkpoint.raw.get("options") or {}
    for key, default in (("dataset", "cifar100"), ("data_dir", "data"), ("image_size", None), ("holdout", 0)):
        if getattr(opt, key) is None:
            setattr(opt, key, recorded.get(key, default))
    data = open_data(opt)
    if "mean" in recorded:  # the network expects its own training set's normalisation, whatever it is scored on
        data = dataclasses.replace(data, mean=tuple(recorded["mean"]), std=tuple(recorded["std"]))
    if opt.split == "val" and data.val is data.test:
        raise UsageError(f"{data.name} has no validation images: give --split test, or the --holdout of the training")
    model = _deployed(checkpoint, _frozen(checkpoint, data, opt.model, device)).to(device.device)
    teacher = _frozen(open_checkpoint(opt.path_t), data, opt.model_t, device) if opt.path_t else None
    loader = open_loader(data, getattr(data, opt.split), opt, device, opt.batch_size)
    return model, teacher, loader, device


def _frozen(checkpoint, data, name, device):
    model = checkpoint.build(data.num_classes, name)
    return model.to(device.device, memory_format=torch.channels_last).eval().requires_grad_(False)


def _deployed(checkpoint, student):
    """What the run evaluated: the student, or what its method's `deploy` makes of it, from the checkpoint alone.

    The method is built for a teacher of the recorded architecture with random weights: its own state, loaded next,
    holds all that the deployed network takes from the real one.
    """
    if not _deploys(checkpoint):
        return student
    options = SimpleNamespace(**checkpoint.raw["options"])
    teacher = create_model(checkpoint.raw["teacher"]["arch"], options.num_classes)
    method = get_method(options.distill)(student.cpu(), teacher, options)
    method.load_state_dict(checkpoint.raw["method"])
    return method.deploy(student)


def _deploys(checkpoint):
    """Is what this run evaluates something else than its student?"""
    distill = (checkpoint.raw.get("options") or {}).get("distill") if "teacher" in checkpoint.raw else None
    return distill is not None and get_method(distill).deploy is not Method.deploy


def network_facts(name, deployed, opt, device):
    """What a run's files say of its network; `parameters` counts what is deployed."""
    return {"arch": name, "num_classes": opt.num_classes, "imagenet": False,
            "parameters": sum(p.numel() for p in deployed.parameters()), "hardware": device.describe()}
