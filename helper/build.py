"""From options to new things: device, data set, loaders, networks, and what a run's record says of them."""
import os
import sys
from typing import NamedTuple

import torch
from torch import nn

from dataset import load_dataset, make_loader
from errors import UsageError
from helper.allocator import keep_freed_memory
from helper.device import choose_device
from helper.seeds import seed_everything
from models import check_batches, create_model, get_classifier
from models.shared_head import TeacherHead, share_head
from runs.record import RunRecord

EVAL_PIXELS = {"cpu": 250 * 32**2, "cuda": 2000 * 32**2}  # of a batch that is scored; at least EVAL_IMAGES
EVAL_IMAGES = {"cpu": 25, "cuda": 250}  # without activations to keep, 250 images of 224 pixels take 2 GB on a GPU


class Head(NamedTuple):
    """A classifier to be shared, what it is called in names of runs, and the record of the run that trained it."""

    classifier: nn.Linear
    label: str
    record: RunRecord | None


def prepare(opt):
    """Device, data set and loaders that the options ask for.

    Returns:
        helper.device.Device, dataset.Data, and {"train": loader, "test": loader[, "val": loader]}.
    """
    device = choose_device(opt.gpu_id, opt.precision, opt.deterministic)
    if device.device.type == "cpu":
        keep_freed_memory()
    data = open_data(opt)
    kind = device.device.type
    scored = max(EVAL_IMAGES[kind], EVAL_PIXELS[kind] // data.image_size**2)
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


def method_options(opt, data, teacher_hash=None):
    """What a Method is built from: the options and what the data decide, read-only.

    teacher_hash: digits of the teacher's weights, by which it finds what belongs to them.
    """
    return opt.but(image_size=data.image_size, num_classes=data.num_classes, n_data=data.n_data,
                   targets=data.train.targets, teacher_hash=teacher_hash)


def make_network(name, opt, device, data, head=None):
    """A new network on the device, channels-last. Seeds every generator first: equal seeds start from equal weights.

    head: a Head, another network's classifier that is to be this one's, frozen. A warning is printed if it was trained
        on other data than these.
    """
    seed_everything(opt.seed, opt.deterministic)
    model = create_model(name, data.num_classes, data.imagenet)
    check_batches(model, data.image_size, data.n_data, opt.batch_size)
    if head is not None:
        classes = head.classifier.out_features
        if classes != data.num_classes:
            raise UsageError(f"the classifier to share is of {classes} classes, not {data.num_classes}: give a network "
                             "that was trained on this data set")
        if head.record is not None and other_data(head.record.facts["data"], data_facts(data)):
            print(f"warning: the classifier to share was trained on other data ({head.record.facts['data']['name']}) "
                  f"than this run's ({data.name}): its rows may be of different classes", file=sys.stderr)
        share_head(model, head.classifier, opt.th_adapter)
    return model.to(device.device, memory_format=torch.channels_last)


def make_student(teacher, opt, device, data):
    """The network of --model_s, its classifier its own, or the teacher's (--copy_head), or starting as that
    (--do_init_s_from_th)."""
    head = get_classifier(teacher) if opt.copy_head or opt.do_init_s_from_th else None
    student = make_network(opt.model_s, opt, device, data, Head(head, "teacher", None) if opt.copy_head else None)
    if opt.do_init_s_from_th:
        own = get_classifier(student)
        if own.weight.shape != head.weight.shape:
            raise UsageError(f"--do_init_s_from_th: the teacher's classifier reads {head.in_features} features and "
                             f"{opt.model_s}'s {own.in_features}: use networks of one width, or --copy_head, which "
                             "puts a trained adapter between")
        own.load_state_dict(head.state_dict())
    return student


def data_facts(data):
    """What a record says of a dataset.Data."""
    return {"name": data.name, "identity": data.identity, "image_size": data.image_size,
            "num_classes": data.num_classes, "n_data": data.n_data, "mean": list(data.mean), "std": list(data.std)}


def other_data(a, b):
    """Do the data facts of two records tell that their data sets differ, by name or by the mean of their images?"""
    return any(a[key] != b[key] for key in ("name", "mean") if key in a and key in b)


def make_record(kind, opt, data, device, network, deployed, *, compiled, inputs=None, **more):
    """The RunRecord of a run that is about to start.

    Args:
        kind: "teacher", "student" or "heads".
        network: what is trained; deployed: what is evaluated, whose parameters are counted, an adapter as folded into
            its classifier.
        compiled: "on" or "off".
        inputs: {name: digits of weights that the run reads, or None}.
        more: further facts.
    """
    facts = {"arch": network.name, "imagenet": data.imagenet, "parameters": count_parameters(deployed),
             "hardware": device.describe(), "data": data_facts(data),
             "inputs": {key: value for key, value in (inputs or {}).items() if value is not None},
             "resolved": {"precision": device.precision, "compile": compiled}, **more}
    return RunRecord(kind, dict(opt), opt.given, facts, opt.roles)


def count_parameters(network):
    """Of what whoever opens the checkpoint gets."""
    adapted = [head for head in network.modules() if isinstance(head, TeacherHead) and head.adapter is not None]
    return _numel(network) + sum(_numel(head.folded()) - _numel(head) for head in adapted)


def _numel(module):
    return sum(p.numel() for p in module.parameters())
