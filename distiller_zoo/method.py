"""What a distillation method is, and what modifies one. CONTRIBUTING.md shows how to add either."""
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import nn

from flags import Option
from models import feature_shapes
from models.deploy import Deployment
from models.features import Reads


class LossWeights(NamedTuple):
    """Published weights of cross-entropy (gamma), KL on the logits (alpha), the method's own loss (beta) and the
    teacher's head (delta), and the temperature of the KL.

    means: which weight a flag stands for. -d is SimKD's --div (alpha) or HeadSharingKD's delta; kdth's --beta is the
        weight of the teacher's head, dih's --alpha that of its own KL terms.
    """

    gamma: float
    alpha: float
    beta: float
    source: str
    delta: float = 0.0
    kd_T: float = 4.0
    means: dict = {"d": "alpha"}  # noqa: RUF012 - never changed


class Stage(NamedTuple):
    """A first stage before the main one: epochs of training at a constant learning rate, on a loss of its own.

    loss: (s, t, batch) -> 0-dim tensor. Only what it reaches is trained.
    freeze: modules that keep, in the main stage, what they learned here.
    """

    epochs: int
    learning_rate: float
    loss: Callable
    reads: Reads = Reads()
    freeze: tuple[nn.Module, ...] = ()


class Method(nn.Module):
    """A distillation method: what beta multiplies, and the modules that this needs.

    Whatever a method holds with `requires_grad` is trained and checkpointed with the student; buffers are checkpointed.
    The two networks belong to the objective: a method must not keep them as sub-modules.

    Args:
        student, teacher: the two networks; their feature shapes, without the batch dimension, are in `s_shapes` and
            `t_shapes` (None without a teacher).
        opt: the options, read-only, with `image_size`, `num_classes`, `n_data` (number of training images) and
            `targets` (their classes, int64 (n_data,)) of the data set.

    Raises:
        UsageError: the pair cannot be distilled this way; the message names the shapes and what would work.
    """

    weights: ClassVar[LossWeights]
    options: ClassVar[tuple[Option, ...]] = ()
    reads: Reads | None = Reads()  # what `forward` reads; None: there is no loss for beta to weigh in the main stage
    updates: int = 1  # of a batch: the student's, then one of each further network that learns (dml)

    def __init__(self, student, teacher, opt):
        super().__init__()
        self.s_shapes = feature_shapes(student, opt.image_size)
        self.t_shapes = None if teacher is None else feature_shapes(teacher, opt.image_size)

    def forward(self, s, t, batch):
        """The loss that beta multiplies: a 0-dim tensor, or a dict of named ones, which are added up.

        s, t are models.features.Features of student and teacher (the teacher's carry no gradient), batch is a
        dataset.Batch. A key "logits" (B, K) of the dict is no loss, but the prediction that training accuracy counts.
        """
        raise NotImplementedError

    def update_loss(self, update, s, batch):
        """The loss, 0-dim, of update 1 ... updates - 1 of a batch; s are the student's Features after its own update,
        and carry no gradient."""
        raise NotImplementedError

    def stages(self):
        """[Stage]: what comes before the main stage, in order."""
        return []

    def deploy(self, student):
        """The Deployment of a trained student: what is evaluated, exported and used as the next teacher."""
        return Deployment()


class Modifier(nn.Module):
    """What METHOD+NAME adds to a method: a view of the logits, more terms of the loss, another network deployed.

    Trained and checkpointed as a Method is.

    Args:
        method: the Method that is modified; the others are Method's.

    Raises:
        UsageError: this does not go with the method or the pair.
    """

    options: ClassVar[tuple[Option, ...]] = ()

    def __init__(self, student, teacher, opt, method):
        super().__init__()

    @classmethod
    def weights_of(cls, weights):
        """The LossWeights of METHOD+NAME from the method's."""
        return weights

    @classmethod
    def check(cls, method):
        """Raises UsageError if this does not go with a Method class."""

    def view(self, s, t):
        """Features of student and teacher as the terms on the logits (Reads.logits) shall see them."""
        return s, t

    def terms(self):
        """[Term] that are added to the loss."""
        return []

    def deploy(self, deployment):
        """What is deployed, given what would be without the modifier."""
        return deployment
