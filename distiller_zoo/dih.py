"""Distilling Knowledge via Intermediate Classifiers. Asadian, Salehi-Abari. 2021, arXiv 2103.00497.

L = sum_b (1 - a_b) * CE(z_s, y) + a_b * KL_T(z_s, z_t_b),   b = 0: the teacher's classifier, b = 1 ... k: its heads
KL_T as in kd, with its T^2
"""
import torch.nn.functional as F

from distiller_zoo.kd import DistillKL
from distiller_zoo.method import LossWeights, Method
from distiller_zoo.options import HEAD_STAGES, PATH_HEADS
from errors import UsageError, unknown
from flags import Option, number
from losses import Loss
from models.features import Reads
from models.tuned import tuned_heads


class DIHLoss(Loss):
    """Cross-entropy and KL against each of the teacher's classifiers. Each classifier is a branch.

    Args:
        alpha: the KL's share of a branch: a number for all branches, or one for each, as a sequence or as {b: alpha}.
            A branch of alpha 0 is skipped, including its cross-entropy.
        T: temperature.
        reduction: 'sum' over the branches, as published, whose gradients are about k + 1 times kd's; or 'mean' over the
            branches that are not skipped.

    Shapes: z_s (B, K), a list of z_t_b (B, K), target (B,) classes -> () loss. The teacher's logits get no gradient.

    Raises UsageError for alphas that do not fit the branches, are not from 0 to 1, or are all 0.
    """

    def __init__(self, alpha=0.1, T=5.0, reduction="sum"):
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise unknown("reduction", reduction, ("sum", "mean"))
        self.alpha, self.reduction = alpha, reduction
        self.kl = DistillKL(T)

    def forward(self, z_s, z_ts, target):
        branches = [(alpha, z_t) for alpha, z_t in zip(self.alphas(len(z_ts)), z_ts, strict=True) if alpha]
        ce = F.cross_entropy(z_s, target)
        total = sum((1 - alpha) * ce + alpha * self.kl(z_s, z_t.detach()) for alpha, z_t in branches)
        return total / len(branches) if self.reduction == "mean" else total

    def alphas(self, count):
        """[alpha of branch 0 ... count - 1]. Raises UsageError as the loss does."""
        alphas = branch_alphas(self.alpha, count)
        if not any(alphas):
            raise UsageError("dih: every branch has alpha 0 and is left out: give at least one of them a value")
        return alphas


def branch_alphas(alpha, count):
    """[alpha of branch 0, 1, ... count - 1] from a number, a sequence, or {branch: alpha}.

    The keys may be text, as in JSON. Raises UsageError unless every branch has an alpha, each from 0 to 1.
    """
    if isinstance(alpha, (int, float)):
        alpha = [alpha] * count
    given = {int(b): a for b, a in (alpha.items() if isinstance(alpha, dict) else enumerate(alpha))}
    for a in given.values():
        if not 0 <= a <= 1:
            raise UsageError(f"alpha is the KL's share of a branch, from 0 to 1, and cannot be {a:g}")
    if sorted(given) != list(range(count)):
        raise UsageError(f"alpha is given for branches {', '.join(map(str, sorted(given))) or 'none'}, and there are 0 "
                         f"(the final classifier) to {count - 1}: give one for each, or a single number")
    return [given[b] for b in range(count)]


def alpha_list(text):
    """An argparse type: '0.1' -> 0.1 for every branch, '0.1,0.2,0' -> [0.1, 0.2, 0.0], the final classifier first."""
    share = number(float, at_least=0, at_most=1)
    alphas = [share(part) for part in text.split(",")]
    return alphas if len(alphas) > 1 else alphas[0]


class DIHMethod(Method):
    """The teacher's classifier and its auxiliary classifiers teach the student together.

    train_heads.py trains the auxiliary classifiers on the teacher's stage maps. DIHLoss includes cross-entropy and KL,
    so gamma and alpha are 0 and beta is 1; -a means --dih_alpha.

    Raises:
        UsageError: as models.tuned.tuned_heads, and for alphas that do not fit the branches.
    """

    weights = LossWeights(0.0, 0.0, 1.0, "DIH, README: alpha 0.1 and T 5 within", kd_T=5.0,
                          means={"d": "dih_alpha", "alpha": "dih_alpha"})
    reads = Reads(heads="flat")
    options = (
        PATH_HEADS, HEAD_STAGES,
        Option(("--dih_alpha",), {"type": alpha_list, "metavar": "A[,A,...]", "help": "dih: the KL's share of a "
                                  "branch, for all or for each, the final classifier first; 0 leaves one out; default: "
                                  "0.1"}),
        Option(("--dih_reduction",), {"choices": ["sum", "mean"], "default": "sum",
                                      "help": "dih: over the branches; sum is published"}),
    )

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.heads = tuned_heads(opt, self.t_shapes, self.reads.heads, opt.head_stages)
        self.loss = DIHLoss(0.1 if opt.dih_alpha is None else opt.dih_alpha, opt.kd_T, opt.dih_reduction)
        self.loss.alphas(1 + len(self.heads.module))  # raises UsageError

    def forward(self, s, t, batch):
        return self.loss(s.logits, [t.logits, *self.heads(t.maps)], batch.target)
