"""Networks from checkpoints of our own runs, of RepDistiller, SimKD and HeadSharingKD, or from a bare state_dict."""
import dataclasses
from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from numbers import Real
from pathlib import Path

import torch
from torch import nn

from errors import UsageError
from models.checkpoint import find_checkpoint, read_checkpoint
from models.deploy import Deployment, choose_head, rebuild
from models.earlier import updated
from models.naming import name_from_path
from models.probe import get_classifier
from models.registry import IMAGENET_LAYOUT, canonical, create_model, is_known
from models.shared_head import TeacherHead, set_classifier

STATE_KEYS = ("model", "state_dict", "net")
OPTION_KEYS = ("options", "opt")
ACCURACY_KEYS = ("best_acc", "accuracy", "acc", "best_acc1", "best_prec1")  # ours is "accuracy"
# Prefixes of DataParallel, torch.compile, and HeadSharingKD's student. HEAD is the prefix of its teacher's head.
WRAPPERS = ("module.", "_orig_mod.", "model_s.")
HEAD = "t_head."
COUNTER = "num_batches_tracked"  # BatchNorm's counter; files older than PyTorch 0.4.1 lack it
HOW_TO_NAME = ("with the script's flag for it, if it has one (--model_t, --model, --model_a, --model_b), or by calling "
               "its file or directory after it, such as resnet8x4.pth")


@dataclasses.dataclass
class ModelCheckpoint:
    """A network's weights, and what their file says of the network. None where the file says nothing."""

    path: Path
    state: dict  # the network's state_dict, without prefixes of wrappers
    name: str | None  # registered name
    imagenet: bool | None  # create_model's flag
    num_classes: int | None
    accuracy: float | None  # top-1 on the test images, %
    deployment: Deployment  # the network that the run evaluated; for a foreign file, the network in it
    raw: dict  # the whole file

    def build(self, num_classes=None, name=None, imagenet=None):
        """The network with these weights (not what the run deployed): float32, on the CPU, in training mode.

        num_classes: the number that the caller needs; None takes the number that the weights have.
        name, imagenet: the architecture, overriding the file's.
        Raises UsageError if the architecture is unknown or does not fit, the number of classes differs, or a weight is
        not finite.
        """
        name = name or self.name
        if name is None:
            raise UsageError(f"{self.path} does not tell which network it holds: name it {HOW_TO_NAME}")
        if imagenet is None:
            imagenet = self.imagenet or has_imagenet_layout(self.state, name)
        found = count_classes(self.state, name, imagenet) or self.num_classes or num_classes or 1
        if num_classes not in (None, found):
            raise UsageError(f"{self.path} is a {name} for {found} classes, not {num_classes}: "
                             f"give one that was trained on this data set")
        model = create_model(name, found, imagenet)
        key = _classifier_key(name, imagenet)
        prefix = key and key.removesuffix("weight")
        adapted = f"{prefix}adapter.weight" in self.state  # another network's classifier, of another width
        if adapted:
            _open_adapter(model, self.state, prefix)
        expected = model.state_dict()
        state = {key: tensor for key, tensor in expected.items() if key.endswith(COUNTER)} | self.state
        difference = _first_difference(expected, state)
        if difference:
            raise UsageError(f"{self.path} does not fit {name} ({difference}): name the network that it holds "
                             f"{HOW_TO_NAME}")
        broken = next((key for key, tensor in state.items() if not tensor.isfinite().all()), None)
        if broken:
            raise UsageError(f"{self.path} holds weights that are not finite ({broken}): its training went wrong")
        model.load_state_dict(state)
        if adapted:
            set_classifier(model, get_classifier(model).folded())
        return model


    def deployed(self, num_classes=None, name=None, imagenet=None):
        """The network that the run evaluated, with its weights: the student, or what its Deployment makes of it.

        Arguments and errors are those of `build`.
        """
        network = self.build(num_classes, name, imagenet)
        try:
            return rebuild(self.deployment, network, self.raw)
        except (KeyError, RuntimeError, TypeError) as error:
            raise UsageError(f"{self.path} does not hold all that its run deployed ({error!r}): train it again with "
                             "this version, or read it with the one that wrote it") from error

    def choosing(self, th_weight):
        """This checkpoint of METHOD+th with another weight of the teacher's head, 0 to 1.

        Raises UsageError as models.deploy.choose_head does.
        """
        return dataclasses.replace(self, deployment=choose_head(self.deployment, th_weight, self.path))


def open_checkpoint(path):
    """The ModelCheckpoint of a file, or of a directory's newest file.

    Raises UsageError as read_checkpoint does, and for a file without weights or with a teacher's heads.
    """
    path = find_checkpoint(path)
    raw = updated(read_checkpoint(path))
    if "heads" in raw or _mapping(raw, "record").get("kind") == "heads":  # what train_heads.py writes, and its run
        raise UsageError(f"{path} holds heads of a teacher, not a network: give the teacher's own file, or its run's "
                         "directory")
    tensors = {_unwrapped(key): tensor for key, tensor in _find_state(raw, path).items()}
    state = {key: tensor for key, tensor in tensors.items() if not key.startswith(HEAD)}
    name = _find_name(raw) or name_from_path(path)
    imagenet = raw.get("imagenet")
    num_classes = raw.get("num_classes")
    if num_classes is None and name is not None:
        num_classes = count_classes(state, name, imagenet or has_imagenet_layout(state, name))
    return ModelCheckpoint(
        path=path,
        state=state,
        name=name,
        imagenet=imagenet,
        num_classes=num_classes,
        accuracy=_find_accuracy(raw),
        deployment=_deployment(raw),
        raw=raw,
    )


def _mapping(raw, key):
    """An entry of a file if it is a dict, as ours is, else {}."""
    return raw[key] if isinstance(raw.get(key), Mapping) else {}


def _deployment(raw):
    entry = _mapping(raw, "deployment")
    return Deployment(**entry) if entry.keys() == set(Deployment._fields) else Deployment()


def load_model(path, num_classes=None, name=None, imagenet=None):
    """The network that a checkpoint's run evaluated, with its weights: float32, on the CPU, in training mode.

    Arguments and errors are those of ModelCheckpoint.build and open_checkpoint.
    """
    return open_checkpoint(path).deployed(num_classes, name, imagenet)


def count_classes(state, name, imagenet=False):
    """Number of rows of the classifier in a state_dict of network `name`, or None if the classifier is not in it."""
    key = _classifier_key(name, imagenet)
    return len(state[key]) if key in state else None


def _open_adapter(model, state, prefix):
    """Replaces the model's classifier by a TeacherHead with an adapter, to load a state_dict with adapter.weight.

    prefix: prefix of the classifier's keys in the state_dict.
    """
    own = get_classifier(model)
    classes, width = state[prefix + "weight"].shape
    set_classifier(model, TeacherHead(nn.Linear(width, classes), own.in_features))


def has_imagenet_layout(state, name):
    """Whether a state_dict of ResNet18 ... ResNet152 has torchvision's layout, not the CIFAR stem's."""
    return canonical(name) in IMAGENET_LAYOUT and "fc.weight" in state


@cache  # tracing a torchvision network takes up to seconds
def _classifier_key(name, imagenet):
    """The key of the classifier's weight in a state_dict; None for a network without a linear classifier."""
    with torch.device("meta"):
        model = create_model(name, 1, imagenet)
    if model.head is None:
        return None
    weight = get_classifier(model).weight
    return next(key for key, tensor in model.state_dict(keep_vars=True).items() if tensor is weight)


def _find_state(raw, path):
    for candidate in (*(raw.get(key) for key in STATE_KEYS), raw):
        if _is_state_dict(candidate):
            return candidate
    raise UsageError(f"{path} holds no weights: give a checkpoint with one of the keys {', '.join(STATE_KEYS)}")


def _is_state_dict(value):
    return isinstance(value, Mapping) and value and all(isinstance(entry, torch.Tensor) for entry in value.values())


def _unwrapped(key):
    while key.startswith(WRAPPERS):
        key = key.partition(".")[2]
    return key


def _find_name(raw):
    recorded = [raw.get("arch")]
    for options in (raw.get(key) for key in OPTION_KEYS):
        options = vars(options) if isinstance(options, Namespace) else options
        if isinstance(options, Mapping):
            recorded += [options.get("model_s"), options.get("model")]
    for name in filter(None, recorded):
        name = canonical(name)
        if is_known(name):
            return name
    return None


def _find_accuracy(raw):
    for value in (raw.get(key) for key in ACCURACY_KEYS):
        if isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.numel() == 1):
            return float(value)
    return None


def _first_difference(expected, state):
    for key in expected:
        if key not in state:
            return f"{key} is missing"
    for key, tensor in state.items():
        if key not in expected:
            return f"{key} is not part of it"
        if tensor.shape != expected[key].shape:
            return f"{key} has shape {tuple(tensor.shape)} instead of {tuple(expected[key].shape)}"
    return None
