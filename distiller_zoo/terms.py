"""The loss as a list of weighted terms."""
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from distiller_zoo.kd import DistillKL
from distiller_zoo.method import Modifier
from errors import UsageError
from models.features import Reads


class Term(NamedTuple):
    """weight * loss(s, t, batch), where the loss returns a 0-dim tensor or a dict of them (see Method.forward).

    loss.reads (Reads) says what the loss reads of the two networks.
    """

    name: str
    weight: float
    loss: Callable

    def __call__(self, s, t, batch):
        """({name of each part: its weighted value, ()}, the loss's "logits" (B, K) or None)."""
        values = self.loss(s, t, batch)
        if not isinstance(values, dict):
            return {self.name: self.weight * values}, None
        parts = {name: self.weight * value for name, value in values.items() if name != "logits"}
        return parts, values.get("logits")


class LogitKL(nn.Module):
    """The KL term on the logits that alpha multiplies for every method: DistillKL at temperature T."""

    reads = Reads(logits=True)

    def __init__(self, T=4.0):
        super().__init__()
        self.kl = DistillKL(T)

    def forward(self, s, t, batch):
        return self.kl(s.logits, t.logits.detach())


def make_terms(criterion, opt=None, method=None, modifiers=None):
    """[Term]: gamma * criterion + alpha * KL + beta * method without terms of weight 0, then the modifiers' terms.

    Args:
        criterion: the task's loss on the labels.
        opt: gamma, alpha, beta, kd_T; None gives the criterion alone, for networks that train without distillation.
        method: the Method, if there is one.
        modifiers: {name: Modifier} of the method, in the order in which they are built; None for none.

    Raises:
        UsageError: every weight is 0, or a modifier of the logits has no term to act on.
    """
    if opt is None:
        return [Term("ce", 1.0, criterion)]
    terms = [Term("ce", opt.gamma, criterion), Term("kl", opt.alpha, LogitKL(opt.kd_T))]
    if method is not None and method.reads is not None:
        terms.append(Term("method", opt.beta, method))
    terms = [term for term in terms if term.weight]
    modifiers = modifiers or {}
    check_views(modifiers, terms, opt)
    terms += [term for modifier in modifiers.values() for term in modifier.terms()]
    if not any(term.weight for term in terms):
        raise UsageError("no loss has a weight: give --gamma or --alpha a value"
                         + (", or --beta" if method is not None and method.reads is not None else ""))
    return terms


def check_views(modifiers, terms, opt):
    """Raises UsageError if a modifier changes logits that no term compares."""
    for name, modifier in modifiers.items():
        if type(modifier).view is Modifier.view or any(term.loss.reads.logits for term in terms):
            continue
        rest = "+".join(part for part in opt.distill.split("+") if part != name)
        raise UsageError(f"--distill {opt.distill}: no term compares the logits alone at --alpha 0, and +{name} has "
                         f"nothing to act on: give -a a value, or use {rest}")
