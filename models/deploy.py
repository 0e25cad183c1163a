"""The network that a run deploys (evaluates, exports, uses as the next teacher), as data in its checkpoint.

A Deployment names a kind of network, its plain settings, and the place of the trained parts besides the student in the
checkpoint. `assemble` makes that network of live modules while a run trains; `rebuild` makes it from a file, without
the method, the teacher or the command line.
"""
from copy import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from errors import UsageError
from models.probe import unwrap
from models.reused import ReusedClassifier, SimKD
from models.shared_head import TeacherHead


class Deployment(NamedTuple):
    """What a run deploys, as plain data.

    kind: a key of KINDS.
    spec: its plain settings.
    parts: {name: path} of each trained part among the checkpoint's modules, such as "method.projector".
    """

    kind: str = "student"
    spec: dict = {}  # noqa: RUF012 - never changed
    parts: dict = {}  # noqa: RUF012

    @property
    def is_student(self):
        """Whether the student's own weights alone make the deployed network."""
        return self.kind == "student" or (self.kind == "shared_head" and not self.spec["th_weight"])


class Kind:
    """One kind of deployed network.

    make(spec) -> {name: untrained part}. join(spec, student, **parts) -> the network, which shares their tensors.
    """

    @staticmethod
    def make(spec):
        return {}

    @staticmethod
    def join(spec, student):
        return student


class ReusedKind(Kind):
    """SimKD. spec: {s_channels, t_channels, factor, t_size, image_size, classes, bias}; parts projector, classifier."""

    @staticmethod
    def make(spec):
        return {"projector": SimKD(spec["s_channels"], spec["t_channels"], spec["factor"]),
                "classifier": nn.Linear(spec["t_channels"], spec["classes"], bias=spec["bias"])}

    @staticmethod
    def join(spec, student, projector, classifier):
        return ReusedClassifier(student, projector, classifier, tuple(spec["t_size"]), spec["image_size"])


class SharedHeadKind(Kind):
    """METHOD+th. Its part is head, a TeacherHead.

    spec: {width and t_width (of the student's and the teacher's embedding), classes, bias, trained (False if the head
    has an adapter that was not trained), th_weight (0: the student's own head predicts, 1: the teacher's head, between
    them a mixture of their probabilities)}.
    """

    @staticmethod
    def make(spec):
        classifier = nn.Linear(spec["t_width"], spec["classes"], bias=spec["bias"])
        return {"head": TeacherHead(classifier, spec["width"])}

    @staticmethod
    def join(spec, student, head):
        if not spec["th_weight"]:
            return student
        return with_head(student, head) if spec["th_weight"] == 1 else Mixture(student, head, spec["th_weight"])


KINDS = {"student": Kind, "reused_classifier": ReusedKind, "shared_head": SharedHeadKind}


def assemble(deployment, student, owner):
    """The deployed network, made of live modules whose tensors it shares.

    student: the live student.
    owner: an nn.Module in which the paths of `deployment.parts` are sub-modules (helper.optim.Learned).
    """
    parts = {name: owner.get_submodule(path) for name, path in deployment.parts.items()}
    return KINDS[deployment.kind].join(deployment.spec, student, **parts)


def rebuild(deployment, student, checkpoint):
    """The deployed network from a checkpoint. An adapter is folded into its classifier.

    student: the network with its weights loaded.
    checkpoint: the file's dict, from which the parts are loaded.
    """
    kind = KINDS[deployment.kind]
    parts = kind.make(deployment.spec)
    for name, module in parts.items():
        entry, _, prefix = deployment.parts[name].partition(".")
        state = checkpoint[entry]
        module.load_state_dict({key.removeprefix(f"{prefix}."): tensor for key, tensor in state.items()
                                if key.startswith(f"{prefix}.")})
        if isinstance(module, TeacherHead):
            parts[name] = module.folded()
    return kind.join(deployment.spec, student, **parts)


def choose_head(deployment, th_weight, path):
    """The Deployment of a METHOD+th run with another weight of the teacher's head, from 0 to 1.

    Raises UsageError, naming the checkpoint's `path`: for a run without +th; for a weight above 0 where the method
    predicts in its own way (its spec has `beside_head`) or where the head's adapter was not trained.
    """
    if deployment.spec.get("beside_head"):
        if th_weight:
            raise UsageError(f"{path} predicts in its own way at test time: leave out --th_inference and "
                             "--validation_th_weight")
        return deployment
    if deployment.kind != "shared_head":
        raise UsageError(f"{path} is no run of METHOD+th, between whose heads --th_inference and "
                         "--validation_th_weight choose: leave them out")
    check_head_weight(th_weight, deployment.spec["trained"])
    return deployment._replace(spec=deployment.spec | {"th_weight": th_weight})


def head_weight(th_inference, validation_th_weight):
    """The weight of the teacher's head in the prediction, 0 to 1, from the two flags.

    Raises UsageError if they contradict each other.
    """
    if th_inference and validation_th_weight not in (0, 1):
        raise UsageError(f"--th_inference 1 lets the teacher's head predict alone, --validation_th_weight "
                         f"{validation_th_weight:g} not: give one of them")
    return 1.0 if th_inference else validation_th_weight


def check_head_weight(th_weight, trained):
    """Raises UsageError if the teacher's head predicts (th_weight > 0) through an adapter that was not trained."""
    if th_weight and not trained:
        raise UsageError("--delta 0 leaves the adapter before the teacher's head untrained, which is to predict: "
                         "give --delta a value")


def with_head(student, head):
    """A network with the classifier `head` that shares all other layers with the student."""
    return _replaced(unwrap(student), unwrap(student).head.split("."), head)


def _replaced(module, path, layer):
    twin = copy(module)
    twin._modules = dict(module._modules)
    name, *rest = path
    twin._modules[name] = _replaced(module._modules[name], rest, layer) if rest else layer
    return twin


class Mixture(nn.Module):
    """A student that predicts by a mixture of its own classifier's and the teacher's head's probabilities.

    It shares the tensors of student and head. th_weight: of the head, above 0 and at most 1.

    Shapes: images (B, 3, H, W) -> logits (B, K), the logarithm of the mixed probabilities.
    """

    def __init__(self, student, head, th_weight):
        super().__init__()
        self.student, self.t_head = student, head  # not `head`, which is a backbone's one classifier
        self.th_weight = th_weight

    def forward(self, images):
        feats, z_s = self.student(images, is_feat=True)
        return mixture(z_s, self.t_head(feats[-1]), self.th_weight)


def mixture(z_s, z_th, th_weight):
    """log((1 - w) p_s + w p_th), p = softmax(z), w = th_weight in (0, 1]. Shapes: (B, K), (B, K) -> (B, K).

    For w = 1 it is z_th itself, which differs from the formula by a constant per sample.
    """
    if th_weight == 1:
        return z_th
    log_p_s, log_p_th = (F.log_softmax(z.float(), dim=1) for z in (z_s, z_th))
    weights = torch.tensor([1 - th_weight, th_weight]).log().tolist()  # numbers: a CUDA graph takes no CPU tensor
    return torch.logaddexp(log_p_s + weights[0], log_p_th + weights[1])
