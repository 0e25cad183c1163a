"""The training objective: frozen teacher, student and method as one module, from a batch to one loss."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import data_parallel

from distiller_zoo import DistillKL, Features
from errors import UsageError
from models.norm import still_statistics


class Losses(NamedTuple):
    """`total` () is what is minimised; `terms` name its weighted parts, which add up to it; `logits` (B, K)."""

    total: Tensor
    terms: dict[str, Tensor]
    logits: Tensor


class Objective(nn.Module):
    """loss = gamma * CE(z_s, y) + alpha * KL_T(z_s, z_t) + beta * method(s, t, batch) + the method's weighted terms;
    a weight of 0 skips its term, and the teacher is run only for a term that reads it.

    Without a teacher and a method it is cross-entropy alone, by which teachers and stand-alone students train.

    Args:
        student: the network that learns.
        device: helper.device.Device.
        teacher: frozen here: eval mode for good, no parameter with requires_grad, run without a graph.
        method: a distiller_zoo.Method for this pair.
        gamma, alpha, beta: the weights above.
        kd_T: temperature of the KL term.

    Shapes: batch.images (B, 3, H, W), batch.target (B,) -> Losses.
    """

    def __init__(self, student, device, teacher=None, method=None, gamma=1.0, alpha=0.0, beta=0.0, kd_T=4.0):
        super().__init__()
        self.student, self.teacher, self.method = student, teacher, method
        self.gamma, self.alpha = gamma, alpha
        self.beta = beta if method is not None and method.has_loss else 0
        self.weighted_terms = method is not None and method.has_weighted_terms
        self.t_depth = None if alpha or method is None else method.t_depth
        self.kl = DistillKL(kd_T)
        self.network = NetworkOnDevice(device)
        if not (self.gamma or self.alpha or self.beta or self.weighted_terms):
            raise UsageError("no loss has a weight: give --gamma or --alpha a value"
                             + (", or --beta" if method is not None and method.has_loss else ""))
        if teacher is not None:
            teacher.eval().requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()  # its BatchNorm statistics are part of what is distilled
        return self

    @property
    def turns(self):
        """Updates per batch: of the student, and of networks that learn beside it."""
        return 1 if self.method is None else self.method.turns

    def deployed(self):
        """The network that is evaluated: images (B, 3, H, W) -> logits (B, K). Shares the student's weights."""
        return self.student if self.method is None else self.method.deploy(self.student)

    def scored(self, row):
        """Called with the metrics of an epoch, before they are saved."""

    def turn(self, batch, turn):
        """Losses of update `turn` of a batch, from 1 on; `forward` gives the student's."""
        with torch.no_grad(), still_statistics(self.student):
            s = self.features(self.student, batch.images)
        with self.network.device.autocast():
            loss = self.method.turn_loss(turn, s, batch)
        return Losses(loss, {"turn": loss}, s.logits)

    def forward(self, batch):
        input_gradient = bool(self.beta) and self.method.input_gradient
        if input_gradient:
            batch.images.requires_grad_()
        s = self.features(self.student, batch.images)
        terms = {}
        if self.gamma:
            terms["ce"] = self.gamma * F.cross_entropy(s.logits.float(), batch.target)
        if self.alpha or self.beta or self.weighted_terms:
            with torch.set_grad_enabled(input_gradient):
                t = None if self.teacher is None else self.features(self.teacher, batch.images, depth=self.t_depth)
            if self.alpha:
                terms["kl"] = self.alpha * self.kl(s.logits, t.logits.detach())
            if self.beta:
                with self.network.device.autocast():
                    losses = self.method(s, t, batch)
                named = losses if isinstance(losses, dict) else {"method": losses}
                terms.update({name: self.beta * loss for name, loss in named.items()})
            if self.weighted_terms:
                with self.network.device.autocast():
                    terms.update(self.method.weighted_terms(s, t, batch))
        logits = s.logits
        if self.method is not None:
            with self.network.device.autocast():
                logits = self.method.predict(s)
        return Losses(sum(terms.values()), terms, logits)

    def features(self, network, images, **settings):
        """Features of a network, in the device's precision."""
        return Features(*self.network(network, images, is_feat=True, **settings))

    def trained_parameters(self):
        """What the optimiser gets: all of student and method that requires a gradient, and nothing frozen."""
        return [p for p in self.parameters() if p.requires_grad]


class FirstStage(nn.Module):
    """The loss by which a method prepares student and modules before the main stage; shares them with `objective`.

    Shapes: as Objective; the accuracy that `logits` stand for means nothing yet.
    """

    turns = 1

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def forward(self, batch):
        objective, method = self.objective, self.objective.method
        with torch.no_grad():
            depth = method.t_depth if method.pretrains_student else None
            t = objective.features(objective.teacher, batch.images, preact=method.preact, depth=depth)
        s = None
        if method.pretrains_student:
            s = objective.features(objective.student, batch.images, preact=method.preact)
        with objective.network.device.autocast():
            loss = method.pretrain_loss(s, t, batch)
        return Losses(loss, {"init": loss}, t.logits if s is None else s.logits)


class NetworkOnDevice:
    """Runs a network in the device's precision, its batch split over `device_ids` when there are several.

    Only this forward pass is split (DataParallel): losses see the whole batch, so two devices give one device's loss.
    """

    def __init__(self, device):
        self.device = device

    def __call__(self, model, images, **settings):
        if len(self.device.device_ids) > 1:
            return data_parallel(_Autocast(model, self.device), images, self.device.device_ids, module_kwargs=settings)
        with self.device.autocast():
            return model(images, **settings)


class _Autocast(nn.Module):
    """Autocast entered inside forward: DataParallel's threads do not inherit the dtype of their parent's."""

    def __init__(self, model, device):
        super().__init__()
        self.model, self.device = model, device

    def forward(self, images, **settings):
        with self.device.autocast():
            return self.model(images, **settings)
