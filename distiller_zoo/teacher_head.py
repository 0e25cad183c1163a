"""It's All in the Head (TH-KD: the teacher's classifier on the student). Ben-Baruch et al. 2022, arXiv 2201.06945.

A modifier of any method: METHOD+th.

L = L_METHOD + delta * KL_T(W_t e_s + b_t, z_t),   W_t, b_t: the teacher's classifier, frozen
"""
from copy import copy
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.base import Method, Option, Weights
from distiller_zoo.crd import CRD
from distiller_zoo.kd import KD, DistillKL
from distiller_zoo.kde import EmbeddingDistance
from distiller_zoo.options import TH_ADAPTER, number
from errors import UsageError
from models import get_classifier
from models.probe import unwrap
from models.shared_head import TeacherHead, check_widths

DELTA = 0.02  # the weight of the teacher's head in both published commands
CHOICE = (  # of what predicts, also in evaluate.py
    Option(("--th_inference",), {"type": int, "choices": [0, 1], "nargs": "?", "const": 1, "default": 0,
                                 "metavar": "0|1", "help": "+th: 1: the teacher's head predicts at test time; the same "
                                 "as --validation_th_weight 1"}),
    Option(("--validation_th_weight",), {"type": number(float, at_least=0, at_most=1), "default": 0.0, "metavar": "W",
                                         "help": "+th: predict by (1 - W) * the own head's probabilities + W * the "
                                         "teacher's head's"}),
)


class SharedHead(Method):
    """A method, and the teacher's classifier as a second one on the student's embedding, beside its own.

    The gradient of the second head's KL reaches the student's backbone alone (and the adapter, where the widths
    differ). What predicts at test time is the student's own head, the teacher's, or a mixture of their probabilities.
    """

    base: type[Method]
    has_weighted_terms = True
    options = (
        Option(("--kdth_t",), {"type": number(float, above=0), "default": 4.0, "metavar": "T",
                               "help": "+th: temperature of the KL on the teacher's head"}),
        TH_ADAPTER,
        *CHOICE,
    )

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.method = self.base(student, teacher, opt)
        self.has_loss, self.preact, self.turns = self.method.has_loss, self.method.preact, self.method.turns
        self.pretrains_student, self.input_gradient = self.method.pretrains_student, self.method.input_gradient
        classifier, (s_dim,) = get_classifier(teacher), self.s_shapes[-1]
        check_widths(s_dim, classifier.in_features, opt.th_adapter)
        self.head = TeacherHead(classifier, s_dim)
        self.delta = opt.delta
        self.has_weighted_terms = self.delta > 0 or self.method.has_weighted_terms
        self.t_depth = None if self.delta else self.method.t_depth  # the head's term reads t.logits
        self.th_weight = self.choose(opt, self.head)
        self.kl = DistillKL(opt.kdth_t)

    def forward(self, s, t, batch):
        return self.method(s, t, batch)

    def weighted_terms(self, s, t, batch):
        terms = self.method.weighted_terms(s, t, batch) if self.method.has_weighted_terms else {}
        if self.delta:
            terms = terms | {"th": self.delta * self.kl(self.head(s.embedding), t.logits.detach())}
        return terms

    def turn_loss(self, turn, s, batch):
        return self.method.turn_loss(turn, s, batch)

    def predict(self, s):
        if not self.th_weight:
            return self.method.predict(s)
        with torch.no_grad():
            return mixture(s.logits, self.head(s.embedding), self.th_weight)

    def pretraining(self, opt):
        return self.method.pretraining(opt)

    def pretrain_loss(self, s, t, batch):
        return self.method.pretrain_loss(s, t, batch)

    def end_pretraining(self):
        self.method.end_pretraining()

    def deploy(self, student):
        return _deployed(student, self.head, self.th_weight) if self.th_weight else self.method.deploy(student)

    @classmethod
    def redeploy(cls, student, teacher, opt, state):
        head = TeacherHead(get_classifier(teacher), get_classifier(student).in_features)
        th_weight = cls.choose(opt, head)
        if not th_weight:
            if not cls.deploys_anew():
                return student
            return cls.base.redeploy(student, teacher, opt, _part(state, "method."))
        head.load_state_dict(_part(state, "head."))
        return _deployed(student, head.folded(), th_weight)

    @classmethod
    def deploys_anew(cls):
        """Does the method itself predict otherwise than by the student's own head?"""
        return cls.base.deploy is not Method.deploy

    @classmethod
    def choose(cls, opt, head):
        """The weight of the teacher's head in the prediction. Raises UsageError where it cannot be what opt says."""
        if opt.th_inference and opt.validation_th_weight not in (0, 1):
            raise UsageError(f"--th_inference 1 lets the teacher's head predict alone, --validation_th_weight "
                             f"{opt.validation_th_weight:g} not: give one of them")
        th_weight = 1.0 if opt.th_inference else opt.validation_th_weight
        if th_weight and cls.deploys_anew():
            raise UsageError(f"{opt.distill} predicts in its own way at test time: leave out --th_inference and "
                             "--validation_th_weight")
        if th_weight and not opt.delta and head.adapter is not None:
            raise UsageError("--delta 0 leaves the adapter before the teacher's head untrained, which is to predict: "
                             "give --delta a value")
        return th_weight


def _part(state, prefix):
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _deployed(student, head, th_weight):
    return _with_head(student, head) if th_weight == 1 else Mixture(student, head, th_weight)


def _with_head(student, head):
    """A network that shares all of the student's layers but its classifier, which is `head`."""
    return _replaced(unwrap(student), unwrap(student).head.split("."), head)


def _replaced(module, path, layer):
    twin = copy(module)
    twin._modules = dict(module._modules)
    name, *rest = path
    twin._modules[name] = _replaced(module._modules[name], rest, layer) if rest else layer
    return twin


class Mixture(nn.Module):
    """A student and the two classifiers on its embedding, their probabilities mixed. Shares all three.

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
    """log((1 - w) p_s + w p_th), p = softmax(z), w = th_weight in (0, 1]. Shapes: (B, K), (B, K) -> (B, K)."""
    if th_weight == 1:
        return z_th
    log_p_s, log_p_th = (F.log_softmax(z.float(), dim=1) for z in (z_s, z_th))
    weights = torch.tensor([1 - th_weight, th_weight]).log()
    return torch.logaddexp(log_p_s + weights[0], log_p_th + weights[1])


@cache
def with_teacher_head(method):
    """The class of METHOD+th: at the method's published weights, and the published one of the teacher's head."""
    if issubclass(method, SharedHead):
        raise UsageError("the method has the teacher's head already: leave out +th")
    if not method.needs_teacher:
        raise UsageError("the method has no teacher whose head could be shared: leave out +th")
    settings = {"base": method, "options": method.options + SharedHead.options, "synonyms": method.synonyms,
                "weights": method.weights._replace(delta=DELTA), "maps_alone": method.maps_alone,
                "tuned_on_teacher": method.tuned_on_teacher}
    return type(f"{method.__name__}TH", (SharedHead,), settings)


class KDTH(with_teacher_head(KD)):
    """kd+th, whose published weight of the teacher's head is --beta."""

    weights = Weights(1.0, 1.5, 0.0, "HeadSharingKD, README; there beta is the weight of the teacher's head", DELTA)
    synonyms: ClassVar = {"d": "alpha", "beta": "delta"}


class KDETH(with_teacher_head(EmbeddingDistance)):
    """kde+th."""

    weights = EmbeddingDistance.weights._replace(delta=DELTA)
    synonyms: ClassVar = {"d": "delta"}


class CRDTH(with_teacher_head(CRD)):
    """crd+th."""

    weights = Weights(0.9, 1.0, 0.8, "HeadSharingKD, README", DELTA)
    synonyms: ClassVar = {"d": "delta"}
