"""Optimisers, schedules of the learning rate by the step, and the moving average of the weights (EMA)."""
import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from errors import unknown


def _sgd(parameters, learning_rate, opt):
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=opt.momentum, weight_decay=opt.weight_decay,
                           nesterov=bool(opt.nesterov), fused=True)


def _adamw(parameters, learning_rate, opt):
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=opt.weight_decay, fused=True)


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}  # each from parameters, learning rate and options


def make_optimizer(parameters, opt, learning_rate=None):
    """The optimiser of --optimizer: one kernel for all parameters (fused) rather than some for each.

    learning_rate: in place of opt.learning_rate.
    """
    if opt.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", opt.optimizer, OPTIMIZERS)
    return OPTIMIZERS[opt.optimizer](list(parameters), learning_rate or opt.learning_rate, opt)


def _step(base, epoch, opt):
    for decay in opt.lr_decay_epochs:  # one after the other: the bits of PyTorch's MultiStepLR
        if epoch >= decay:
            base *= opt.lr_decay_rate
    return base


def _cosine(base, epoch, opt):
    return opt.lr_min + (base - opt.lr_min) * (1 + math.cos(math.pi * min(1.0, epoch / opt.epochs))) / 2


def _polynomial(base, epoch, opt):
    return opt.lr_min + (base - opt.lr_min) * (1 - min(1.0, epoch / opt.epochs)) ** opt.lr_power


SCHEDULES = {"step": _step, "cosine": _cosine, "polynomial": _polynomial}  # from the base rate and epochs done, a float


class Schedule:
    """The learning rate of every step, a function of the step alone: nothing of it has to be saved.

    For the first --lr_warmup_epochs it rises linearly to the schedule's value.

    Args:
        steps_per_epoch: of the training loader.
        opt: lr_schedule, learning_rate, epochs and what the schedule reads of lr_decay_epochs, lr_decay_rate, lr_min,
            lr_power, lr_warmup_epochs.
    """

    def __init__(self, opt, steps_per_epoch):
        if opt.lr_schedule not in SCHEDULES:
            raise unknown("schedule", opt.lr_schedule, SCHEDULES)
        self.opt, self.steps = opt, steps_per_epoch

    def __call__(self, step):
        """The learning rate of a step, counted from 0 over the whole run."""
        rate = SCHEDULES[self.opt.lr_schedule](self.opt.learning_rate, step / self.steps, self.opt)
        warmup = self.opt.lr_warmup_epochs * self.steps
        return rate * (step + 1) / warmup if step + 1 < warmup else rate


def constant(learning_rate):
    """The schedule of a first stage."""
    return lambda step: learning_rate


def make_average(learned, decay):
    """The moving average of a module's weights and float buffers, for 0 < decay < 1; None for a decay of 0.

    torch.optim.swa_utils.AveragedModel; its `module` is a copy of `learned`.
    """
    if not decay:
        return None
    return AveragedModel(learned, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


class Learned(nn.Module):
    """All that a run trains, as one module: the student, and the modules of its method and modifiers."""

    def __init__(self, student, method=None, modifiers=None):
        super().__init__()
        self.student, self.method, self.modifiers = student, method, modifiers
