"""The training objective: frozen teacher, student, method and terms as one module, from a batch to one loss."""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from errors import UsageError
from helper.networks import NetworkOnDevice
from helper.optim import Learned
from models.deploy import Deployment, assemble
from models.features import Features, deepest
from models.norm import freeze_bn_statistics


class Losses(NamedTuple):
    """`total` () is what is minimised; `terms` name its weighted parts, which add up to it; `logits` (B, K)."""

    total: Tensor
    terms: dict[str, Tensor]
    logits: Tensor


class Objective(nn.Module):
    """loss = sum of weight * loss(s, t, batch) over the terms; the teacher is run only as far as they read it.

    Args:
        student: the network that learns.
        device: helper.device.Device.
        terms: [distiller_zoo.terms.Term]; make_terms makes them. One of weight 0 only predicts.
        teacher: frozen here: eval mode for good, no parameter with requires_grad, run without a graph.
        method: the distiller_zoo.Method of this pair, if there is one.
        modifiers: nn.ModuleDict of the method's distiller_zoo.Modifiers, in the order in which they act.

    Shapes: batch.images (B, 3, H, W), batch.target (B,) -> Losses.
    """

    def __init__(self, student, device, terms, teacher=None, method=None, modifiers=None):
        super().__init__()
        self.student, self.teacher, self.method, self.modifiers = student, teacher, method, modifiers
        self.terms = terms
        reads = [term.loss.reads for term in terms]
        self.input_gradient = any(each.input_gradient for each in reads)
        of_teacher = [each for each in reads if each.teacher] if teacher is not None else []
        self.reads_teacher = bool(of_teacher)
        n_maps = len(method.t_shapes) - 1 if of_teacher and method is not None else None
        self.t_depth = deepest(of_teacher, n_maps) if of_teacher else None
        self.network = NetworkOnDevice(device)
        if teacher is not None:
            teacher.eval().requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()  # its BatchNorm statistics are part of what is distilled
        return self

    @property
    def updates(self):
        """Of a batch: the student's, and those of networks that learn beside it."""
        return 1 if self.method is None else self.method.updates

    def learned(self):
        """All that is trained, as one module."""
        return Learned(self.student, self.method, self.modifiers)

    def deployment(self):
        """What of the trained modules is evaluated and exported."""
        deployment = Deployment() if self.method is None else self.method.deploy(self.student)
        for modifier in (self.modifiers or {}).values():
            deployment = modifier.deploy(deployment)
        return deployment

    def deployed(self, learned=None):
        """The network that is evaluated: images (B, 3, H, W) -> logits (B, K). Shares the weights of `learned`: its own
        ones, or a copy such as their moving average."""
        learned = learned or self.learned()
        return assemble(self.deployment(), learned.student, learned)

    def scored(self, row):
        """Called with the metrics of an epoch, before they are saved."""

    def forward(self, batch, update=0):
        """Losses of an update of a batch: 0 is the student's, others those of networks that learn beside it.

        They too go through here, so that what wraps the module sees every backward pass.
        """
        if update:
            return self._update(batch, update)
        if self.input_gradient:
            batch.images.requires_grad_()
        s = self.features(self.student, batch.images)
        t = None
        if self.reads_teacher:
            with torch.set_grad_enabled(self.input_gradient):
                t = self.features(self.teacher, batch.images, depth=self.t_depth)
        views = s, t
        for modifier in (self.modifiers or {}).values():
            views = modifier.view(*views)
        parts, logits = {}, s.logits
        with self.network.device.autocast():
            for term in self.terms:
                seen = views if term.loss.reads.logits else (s, t)
                losses, predicted = term(*seen, batch)
                if losses.keys() & parts.keys():
                    raise UsageError(f"two terms of the loss are called {' and '.join(losses.keys() & parts.keys())}: "
                                     "name the method's otherwise")
                parts |= losses
                logits = logits if predicted is None else predicted
        return Losses(sum(parts.values()), parts, logits)

    def _update(self, batch, update):
        with torch.no_grad(), freeze_bn_statistics(self.student):
            s = self.features(self.student, batch.images)
        with self.network.device.autocast():
            loss = self.method.update_loss(update, s, batch)
        return Losses(loss, {"update": loss}, s.logits)

    def features(self, network, images, **settings):
        """Features of a network, in the device's precision."""
        return Features(*self.network(network, images, is_feat=True, **settings))

    def trained_parameters(self):
        """What the optimiser gets: all of student, method and modifiers that requires a gradient."""
        return [p for p in self.parameters() if p.requires_grad]


class FirstStage(nn.Module):
    """The objective of a Stage, by which a method prepares student and modules before the main one.

    Shares them with `objective`. Shapes: as Objective; the accuracy that `logits` stand for means nothing yet.
    """

    updates = 1

    def __init__(self, objective, stage):
        super().__init__()
        self.objective, self.stage = objective, stage

    def learned(self):
        return self.objective.learned()

    def trained_parameters(self):
        return self.objective.trained_parameters()

    def forward(self, batch, update=0):
        objective, reads = self.objective, self.stage.reads
        n_maps = len(objective.method.t_shapes) - 1
        with torch.no_grad():
            t = objective.features(objective.teacher, batch.images, preact=reads.preact, depth=reads.t_depth(n_maps))
        s = objective.features(objective.student, batch.images, preact=reads.preact) if reads.student else None
        with objective.network.device.autocast():
            loss = self.stage.loss(s, t, batch)
        return Losses(loss, {"init": loss}, t.logits if s is None else s.logits)
