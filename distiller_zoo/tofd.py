"""Task-Oriented Feature Distillation. Zhang, Shi, Shi, Ma, Bao. NeurIPS 2020.

L = sum_i alpha * ||F_s_i W_i^T - F_t_i||_F + CE(z_s_i, y) + H(softmax(z_t_i / T), softmax(z_s_i / T))
    + beta * sum_i ||W_i W_i^T - I||_F + ||W_i^T W_i - I||_F,   i: the exits, F_i (B, D): the features there
"""
import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.epochs import EpochCounter
from distiller_zoo.method import LossWeights, Method
from distiller_zoo.options import HEAD_STAGES, PATH_HEADS
from errors import UsageError
from flags import SWITCH, Option, number
from losses import Loss
from models.features import Reads
from models.heads import Heads
from models.tuned import tuned_heads


class TOFDLoss(Loss):
    """Feature distance, cross-entropy, and cross-entropy with the teacher's probabilities, summed over the exits.

    The links W_i map the student's features to the teacher's width. They are part of the loss, which keeps them close
    to orthogonal. Without `widths` the first call creates them, too late for an optimiser or state_dict made before it.

    Args:
        alpha: weight of the features' distance.
        beta: weight of the links' distance from orthogonality.
        widths: (d_s, d_t) of the features of each exit.
        per_sample: average the samples' distances, instead of the published norm of the whole batch's difference,
            which grows like sqrt(B).

    Shapes: lists over the exits, in one order: student's features (B, d_s), teacher's (B, d_t), logits of both (B, K);
    then target (B,) classes, T the temperature of this epoch -> () loss. The student's features determine the number of
    exits; further entries of the other lists are ignored. The teacher gets no gradient.
    """

    def __init__(self, alpha=0.05, beta=0.03, widths=None, per_sample=False):
        super().__init__()
        self.alpha, self.beta, self.per_sample = alpha, beta, per_sample
        self.links = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in widths or ())
        self._ready = widths is not None

    def forward(self, feats_s, feats_t, z_ss, z_ts, target, T):
        if not self._ready:
            pairs = zip(feats_s, feats_t, strict=False)
            self.links.extend(nn.Linear(f_s.shape[1], f_t.shape[1], bias=False).to(f_s) for f_s, f_t in pairs)
            self._ready = True
        loss = 0
        for i, (link, f_s) in enumerate(zip(self.links, feats_s, strict=True)):
            loss = loss + self.alpha * self.distance(link(f_s), feats_t[i].detach())
            loss = loss + F.cross_entropy(z_ss[i], target) + soft_cross_entropy(z_ss[i], z_ts[i].detach(), T)
            loss = loss + self.beta * orthogonality(link.weight)
        return loss

    def distance(self, f_s, f_t):
        """||f_s - f_t|| of the batch, or its mean over the samples: (B, D), (B, D) -> (). At 0 the gradient is 0."""
        if self.per_sample:
            return torch.linalg.vector_norm(f_s - f_t, dim=1).mean()
        return torch.linalg.vector_norm(f_s - f_t)


def orthogonality(weight):
    """||W W^T - I|| + ||W^T W - I||, not squared: W (d_t, d_s) -> (). At 0 the gradient is 0."""
    grams = weight @ weight.T, weight.T @ weight
    return sum(torch.linalg.vector_norm(g - torch.eye(len(g), dtype=g.dtype, device=g.device)) for g in grams)


def soft_cross_entropy(z_s, z_t, T):
    """Cross-entropy of the probabilities at temperature T, without T^2, batch mean: z_s, z_t (B, K) -> ()."""
    return F.cross_entropy(z_s / T, F.softmax(z_t / T, dim=1))


def temperature(epoch, t=3.0):
    """The temperature T of an epoch, counted from 0. With the published t = 3: 1.012 in the first, 3.4 in the 200th."""
    return 1 + t / 250 * (epoch + 1)


class TOFDMethod(Method):
    """Auxiliary classifiers (exits) of separable convolutions on the early stages of both networks; the final
    classifiers are the last exit.

    train_heads.py --head_type sepconv trains the teacher's exits. The student's exits are not deployed. TOFDLoss
    includes cross-entropy, so gamma and alpha are 0 and beta is 1; -a means --tofd_alpha.

    A step takes 1.8 times as long as kd's for a small student (results/speed.md): both networks have exits, and the
    student's need a backward pass.

    The published CIFAR ResNets have a fourth exit beside the final classifier, on the same map. It shifts their list of
    logits against their list of features. --tofd_faithful 1 restores that exit and that shift, on any network, and
    nothing else of the published networks.

    Raises:
        UsageError: no stage is left for an exit, or --tofd_faithful with --head_stages; and as tuned_heads.
    """

    weights = LossWeights(0.0, 0.0, 1.0, "DIH's TOFD: alpha 0.05, beta 0.03, t 3 within",
                          means={"d": "tofd_alpha", "alpha": "tofd_alpha"})
    reads = Reads(heads="sepconv")
    options = (
        PATH_HEADS, HEAD_STAGES,
        Option(("--tofd_alpha",), {"type": number(float, at_least=0), "metavar": "A",
                                   "help": "tofd: weight of the features' distance; default: 0.05"}),
        Option(("--tofd_beta",), {"type": number(float, at_least=0), "default": 0.03, "metavar": "B",
                                  "help": "tofd: weight of the links' orthogonality"}),
        Option(("--tofd_t",), {"type": number(float, at_least=0), "default": 3.0, "metavar": "T",
                               "help": "tofd: the temperature is 1 + T/250 * epoch"}),
        Option(("--tofd_faithful",), SWITCH | {"help": "tofd: 1: the published CIFAR ResNets' extra exit on the last "
                                                 "stage, by which their logits and features are paired with a shift"}),
    )

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.faithful = bool(opt.tofd_faithful)
        last = min(len(self.s_shapes), len(self.t_shapes)) - 2
        if self.faithful and opt.head_stages:
            raise UsageError("--tofd_faithful has an exit on every stage: leave out --head_stages")
        stages = list(range(1, last + 1 if self.faithful else last)) if opt.head_stages is None else opt.head_stages
        if not stages or stages[-1] > last:
            raise UsageError(f"tofd: there is no stage for an exit before the last, the stage maps being "
                             f"{self.s_shapes[1:-1]} (student) and {self.t_shapes[1:-1]} (teacher): choose from 1 to "
                             f"{last} with --head_stages")
        self.heads_t = tuned_heads(opt, self.t_shapes, self.reads.heads, stages)
        self.heads_s = Heads(self.s_shapes[1:-1], stages, opt.num_classes, "sepconv")
        s_dims, t_dims = ([shapes[-2][0]] * len(stages) for shapes in (self.s_shapes, self.t_shapes))
        if not self.faithful:  # the last exit's feature is the embedding
            s_dims, t_dims = [self.s_shapes[-1][0], *s_dims], [self.t_shapes[-1][0], *t_dims]
        self.loss = TOFDLoss(0.05 if opt.tofd_alpha is None else opt.tofd_alpha, opt.tofd_beta,
                             widths=list(zip(s_dims, t_dims, strict=True)))
        self.epoch, self.t = EpochCounter(opt.n_data), opt.tofd_t

    def forward(self, s, t, batch):
        feats_s, z_ss = self._exits(self.heads_s, s)
        feats_t, z_ts = self._exits(self.heads_t.module, t)
        T = temperature(self.epoch(len(batch.target)) - 1, self.t)
        return self.loss(feats_s, feats_t, z_ss, z_ts, batch.target, T)

    def _exits(self, heads, features):
        """Features [(B, D)] and logits [(B, K)] of the exits, deep to shallow, the final classifier's first."""
        feats, logits = heads.features(features.maps)
        ends = [] if self.faithful else [features.embedding]
        return [*ends, *reversed(feats)], [features.logits, *reversed(logits)]
