"""Multi-head Knowledge Distillation for Model Compression. Wang, Lohit, Jones, Fu. 2020, arXiv 2012.02911.

L = KD_0 + sum_j CE(z_t_j, y) + beta * KD_j,   j = 1 ... k: the heads of both networks, 0: their final classifiers
KD_j = (1 - a_j) * CE(z_s_j, y) + a_j * KL_T(z_s_j, z_t_j),   KL_T as in kd, with its T^2
"""
import torch.nn.functional as F

from distiller_zoo.dih import alpha_list, branch_alphas
from distiller_zoo.kd import DistillKL
from distiller_zoo.method import LossWeights, Method
from distiller_zoo.options import HEAD_STAGES, PATH_HEADS
from flags import SWITCH, Option, number
from losses import Loss
from models.heads import Heads
from models.tuned import tuned_heads


class MHKDLoss(Loss):
    """KD of each of the student's classifiers from the teacher's classifier on the same stage.

    The teacher's auxiliary classifiers (heads) are trained by the same loss.

    Args:
        alpha: the KL's share of each pair: a number, or one for each, as a sequence or as {j: alpha}.
        beta: weight of the heads' KD against the KD of the final classifiers.
        T: temperature.
        faithful: True restores the published behaviour: the final pair uses the alpha of pair 1; a pair of alpha 0 is
            skipped, including the cross-entropy of the teacher's head; and the KL gives a gradient to the teacher's
            heads too. False trains the teacher's heads on their cross-entropy alone, whatever alpha is.

    Shapes: lists of the student's and the teacher's logits (B, K), final ones first; target (B,) classes -> () loss.

    Raises UsageError for alphas that do not fit the pairs or are not from 0 to 1.
    """

    def __init__(self, alpha=0.1, beta=0.5, T=4.0, faithful=False):
        super().__init__()
        self.alpha, self.beta, self.faithful = alpha, beta, faithful
        self.kl = DistillKL(T)

    def forward(self, z_ss, z_ts, target):
        final, *alphas = branch_alphas(self.alpha, len(z_ss))
        if self.faithful and alphas:
            final = alphas[0]
        loss = self._kd(z_ss[0], z_ts[0].detach(), target, final)
        for alpha, z_s, z_t in zip(alphas, z_ss[1:], z_ts[1:], strict=True):
            if self.faithful and not alpha:
                continue
            z_target = z_t if self.faithful else z_t.detach()
            loss = loss + F.cross_entropy(z_t, target) + self.beta * self._kd(z_s, z_target, target, alpha)
        return loss

    def _kd(self, z_s, z_t, target, alpha):
        return (1 - alpha) * F.cross_entropy(z_s, target) + alpha * self.kl(z_s, z_t)


class MHKDMethod(Method):
    """Auxiliary classifiers of two convolutions on stages of both networks; each of the student's learns from the
    teacher's on the same stage.

    The teacher's heads are trained with the student, as published, or --path_heads names heads that train_heads.py
    --head_type conv has trained. The student's heads are not deployed. MHKDLoss includes cross-entropy and KL, so gamma
    and alpha are 0 and beta is 1; -a means --mhkd_alpha.

    A step takes 27 times as long as kd's for a small student (results/speed.md): the head on a 32x32 map needs 37 times
    the multiplications of resnet8.

    Raises:
        UsageError: as models.heads.Heads and models.tuned.tuned_heads, and for alphas that do not fit the pairs.
    """

    weights = LossWeights(0.0, 0.0, 1.0, "DIH's MHKD: alpha 0.1, 0.5 for the heads and T 4 within",
                          means={"d": "mhkd_alpha", "alpha": "mhkd_alpha"})
    options = (
        PATH_HEADS, HEAD_STAGES,
        Option(("--mhkd_alpha",), {"type": alpha_list, "metavar": "A[,A,...]", "help": "mhkd: the KL's share of a pair "
                                   "of classifiers, for all or for each, the final ones first; default: 0.1"}),
        Option(("--mhkd_beta",), {"type": number(float, at_least=0), "default": 0.5, "metavar": "B",
                                  "help": "mhkd: weight of the heads' distillation"}),
        Option(("--mhkd_faithful",), SWITCH | {"help": "mhkd: 1: the published code, faults included (MHKDLoss)"}),
    )

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        stages = opt.head_stages or [1, 2]  # the published scripts have the third commented out
        settings = (stages, opt.num_classes, "conv")
        self.heads_s = Heads(self.s_shapes[1:-1], *settings)
        if opt.path_heads:
            self.heads_t = tuned_heads(opt, self.t_shapes, "conv", stages)
        else:
            self.heads_t = Heads(self.t_shapes[1:-1], *settings)
        alpha = 0.1 if opt.mhkd_alpha is None else opt.mhkd_alpha
        branch_alphas(alpha, 1 + len(stages))  # raises UsageError
        self.loss = MHKDLoss(alpha, opt.mhkd_beta, opt.kd_T, bool(opt.mhkd_faithful))

    def forward(self, s, t, batch):
        return self.loss([s.logits, *self.heads_s(s.maps)], [t.logits, *self.heads_t(t.maps)], batch.target)
