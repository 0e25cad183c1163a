"""What a distillation method is, and what a loss is. CONTRIBUTING.md shows how to add one."""
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models import feature_shapes


class Features(NamedTuple):
    """What a network says of a batch: `feats` = [stem map, stage maps ..., embedding], and `logits` (B, K).

    Of a network that was stopped after some of its maps these alone, and no logits.
    """

    feats: list[Tensor]
    logits: Tensor | None

    @property
    def maps(self):
        """The stage maps (B, C, H, W), shallow to deep, without the stem's."""
        return self.feats[1:] if self.logits is None else self.feats[1:-1]

    @property
    def embedding(self):
        """What the classifier reads: (B, D)."""
        return self.feats[-1]


class Weights(NamedTuple):
    """Published weights of cross-entropy (gamma), KL on the logits (alpha), the method's own loss (beta) and a shared
    head's (delta), and the temperature of the KL."""

    gamma: float
    alpha: float
    beta: float
    source: str
    delta: float = 0.0
    kd_T: float = 4.0


class Option(NamedTuple):
    """A command line flag that a method reads from `opt`: Option(("-f", "--factor"), dict(type=int, ...))."""

    flags: tuple[str, ...]
    settings: dict


class Pretraining(NamedTuple):
    """A first stage before the main one: so many epochs of SGD at a constant learning rate."""

    epochs: int
    learning_rate: float


class Method(nn.Module):
    """A distillation method: what beta multiplies, and the modules that this needs.

    Whatever a method holds with `requires_grad` is trained and checkpointed with the student; buffers are checkpointed.
    The two networks belong to the objective: a method must not keep them as sub-modules.

    Args:
        student, teacher: the two networks; their feature shapes, without the batch dimension, are in `s_shapes` and
            `t_shapes`.
        opt: the options, with `image_size`, `num_classes`, `n_data` (number of training images) and `targets` (their
            classes, int64 (n_data,)) of the data set.

    Raises:
        UsageError: the pair cannot be distilled this way; the message names the shapes and what would work.
    """

    weights: ClassVar[Weights]
    options: ClassVar[tuple[Option, ...]] = ()
    # What a flag stands for: -d is SimKD's --div (alpha) or HeadSharingKD's delta; kdth's --beta is the weight of the
    # teacher's head, dih's --alpha that of its own KL terms.
    synonyms: ClassVar[dict[str, str]] = {"d": "alpha"}
    has_loss: bool = True  # is there anything for beta to weigh in the main stage? (kd acts through alpha alone)
    has_weighted_terms: bool = False  # does `weighted_terms` give any?
    needs_teacher: ClassVar[bool] = True  # else there is none: `teacher` and t are None
    turns: int = 1  # updates per batch: the student's, then one for each network of the method's own that learns by it
    pretrains_student: ClassVar[bool] = True  # does the first stage read the student at all?
    preact: ClassVar[bool] = False  # do s.maps and t.maps come from before the ReLU in the first stage?
    maps_alone: ClassVar[bool] = False  # are stage maps all that the losses read of the teacher?
    t_depth: int | None = None  # how many of t.feats the losses read, from the stem's on; None: all, and t.logits
    tuned_on_teacher: ClassVar[str | None] = None  # the kind of heads that train_heads.py has to tune before
    input_gradient: ClassVar[bool] = False  # does the loss differentiate both networks by batch.images?

    def __init__(self, student, teacher, opt):
        super().__init__()
        self.s_shapes = feature_shapes(student, opt.image_size)
        self.t_shapes = feature_shapes(teacher, opt.image_size) if self.needs_teacher else None
        if self.maps_alone:
            self.t_depth = len(self.t_shapes) - 1  # all but the embedding

    def forward(self, s, t, batch):
        """The loss that beta multiplies: a 0-dim tensor, or a dict of named ones which are added up.

        s, t are Features of student and teacher (the teacher's carry no gradient), batch is a dataset.Batch. Not called
        for a method without `has_loss`.
        """
        raise NotImplementedError

    def weighted_terms(self, s, t, batch):
        """Named losses (0-dim) beside beta's that bring their own weights; called if `has_weighted_terms`, after
        `forward`, whatever beta is."""
        raise NotImplementedError

    def turn_loss(self, turn, s, batch):
        """The loss, 0-dim, of update 1 ... turns - 1 of a batch; s are the student's Features after its own update, and
        carry no gradient."""
        raise NotImplementedError

    def predict(self, s):
        """The logits (B, K) that training accuracy counts, after `forward` on the same batch: the student's own."""
        return s.logits

    def pretraining(self, opt):
        """The first stage (Pretraining), or None for the methods that have none."""
        return None

    def pretrain_loss(self, s, t, batch):
        """The loss of the first stage, 0-dim. Only what it reaches is trained then; s is None unless
        `pretrains_student`."""
        raise NotImplementedError

    def end_pretraining(self):
        """Called once the first stage is over, and when a run goes on after it: freeze here what the main one keeps."""

    def deploy(self, student):
        """The module that is evaluated, saved as the result and exported: images (B, 3, H, W) -> logits (B, K)."""
        return student

    @classmethod
    def redeploy(cls, student, teacher, opt, state):
        """What `deploy` gave at the end of a run, from its checkpoint alone.

        teacher is of the recorded architecture but has random weights: `state`, the method's state_dict, holds all that
        the deployed network takes from the real one.
        """
        method = cls(student, teacher, opt)
        method.load_state_dict(state)
        return method.deploy(student)


class Loss(nn.Module):
    """A loss computed in float32, whatever autocast or half-precision features surround it.

    Sums of squares over a map overflow float16 and lose digits in bfloat16, so tensors (also in lists) are cast up and
    autocast is switched off. float64 stays float64: gradient checks rely on it.
    """

    def __call__(self, *inputs):
        inputs = _float32(inputs)
        device = next(_tensors(inputs)).device.type
        with torch.autocast(device, enabled=False):
            return super().__call__(*inputs)


def _float32(x):
    if isinstance(x, Tensor):
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return type(x)(_float32(item) for item in x) if isinstance(x, (list, tuple)) else x


def _tensors(x):
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for item in x:
            yield from _tensors(item)
