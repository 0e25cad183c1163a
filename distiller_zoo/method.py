"""What a distillation method is, and what modifies one. CONTRIBUTING.md shows how to add either."""
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import nn

from flags import Option
from models import feature_shapes
from models.deploy import Deployment
from models.features import Reads


class LossWeights(NamedTuple):
    """Published weights of cross-entropy (gamma), KL on the logits (alpha), the method's own loss (beta) and the KL of
    the teacher's head (delta), and the temperature of the KL on the logits (kd_T).

    source: where they were published.
    means: {flag: the option that it sets}. -d is SimKD's --div (alpha) or HeadSharingKD's delta; kdth's --beta is the
        weight of the teacher's head, and dih's --alpha is the weight of its own KL terms.
    """

    gamma: float
    alpha: float
    beta: float
    source: str
    delta: float = 0.0
    kd_T: float = 4.0
    means: dict = {"d": "alpha"}  # noqa: RUF012 - never changed


class Stage(NamedTuple):
    """A stage before the main one: `epochs` epochs at a constant learning rate on a loss of its own.

    loss: (s, t, batch) -> 0-dim tensor. Only parameters that receive its gradient are trained.
    reads: what the loss reads of student and teacher.
    freeze: modules that are trained in this stage and frozen in the main one.
    """

    epochs: int
    learning_rate: float
    loss: Callable
    reads: Reads = Reads()
    freeze: tuple[nn.Module, ...] = ()


class Method(nn.Module):
    """A distillation method: the loss that beta multiplies, and the modules of that loss.

    Parameters of a method with `requires_grad` are trained with the student; all its parameters and buffers are
    checkpointed. The two networks belong to the objective: a method must not keep them as sub-modules.

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
    reads: Reads | None = Reads()  # what `forward` reads; None: the main stage has no loss that beta multiplies
    updates: int = 1  # alternating updates per batch: the student's, then one per further network (dml)

    def __init__(self, student, teacher, opt):
        super().__init__()
        self.s_shapes = feature_shapes(student, opt.image_size)
        self.t_shapes = None if teacher is None else feature_shapes(teacher, opt.image_size)

    def forward(self, s, t, batch):
        """The loss that beta multiplies: a 0-dim tensor, or a dict of named 0-dim tensors, which are added up.

        s, t are models.features.Features of student and teacher (the teacher's carry no gradient); batch is a
        dataset.Batch. An entry "logits" (B, K) of the dict is not a loss: training accuracy counts it as the
        prediction.
        """
        raise NotImplementedError

    def update_loss(self, update, s, batch):
        """The loss, 0-dim, of alternating update 1 ... updates - 1 of a batch.

        s are the student's Features after its own update; they carry no gradient.
        """
        raise NotImplementedError

    def stages(self):
        """[Stage]: the stages before the main one, in order."""
        return []

    def deploy(self, student):
        """The Deployment of a trained student: what is evaluated, exported and used as the next teacher."""
        return Deployment()


class Modifier(nn.Module):
    """What METHOD+NAME adds to a method: a view of the logits, further terms of the loss, another deployed network.

    A modifier is trained and checkpointed as a Method is.

    Args:
        student, teacher, opt: as for Method.
        method: the Method that is modified.

    Raises:
        UsageError: the modifier does not fit the method or the pair.
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
        """Raises UsageError if the modifier does not fit the Method class `method`."""

    def view(self, s, t):
        """The Features of student and teacher that the terms on the logits (Reads.logits) get."""
        return s, t

    def terms(self):
        """[Term]: terms that are added to the loss."""
        return []

    def deploy(self, deployment):
        """The Deployment with this modifier, given the one without it."""
        return deployment
