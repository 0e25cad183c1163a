"""Deep Mutual Learning. Zhang, Xiang, Hospedales, Lu. CVPR 2018, arXiv 1706.00384.

L_i = (1 - a) * CE(z_i, y) + a / (P - 1) * sum_{j != i} KL_T(z_i, z_j),   P networks, KL_T as in kd, with its T^2
"""
import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.kd import DistillKL
from distiller_zoo.method import LossWeights, Method
from flags import Option
from losses import Loss
from models import check_batches, check_name, create_model
from models.features import Reads
from models.norm import freeze_bn_statistics


class DMLLoss(Loss):
    """The loss of one of several networks that are trained together: cross-entropy and the mean KL from the others.

    The paper gives both terms weight 1; the defaults are those of DIH's repository.

    Args:
        alpha: weight of the KL.
        T: temperature.
        gamma: weight of the cross-entropy; None: 1 - alpha.

    Shapes: z_s (B, K), a list of the others' logits (B, K), target (B,) classes -> () loss. The others get no gradient.
    With an empty list the loss is the cross-entropy, as in DIH's burn-out, before the networks teach each other.
    """

    def __init__(self, alpha=0.1, T=1.0, gamma=None):
        super().__init__()
        self.alpha, self.gamma = alpha, 1 - alpha if gamma is None else gamma
        self.kl = DistillKL(T)

    def forward(self, z_s, z_others, target):
        ce = F.cross_entropy(z_s, target)
        if not z_others:
            return ce
        return self.gamma * ce + self.alpha * self.divergence(z_s, z_others)

    def divergence(self, z_s, z_others):
        """The mean KL from the others, which alpha multiplies: z_s (B, K), [(B, K)] -> ()."""
        return sum(self.kl(z_s, z.detach()) for z in z_others) / len(z_others)


def name_list(text):
    """An argparse type: 'resnet20,resnet14' -> ['resnet20', 'resnet14'], each the name of a network."""
    names = text.split(",")
    for name in names:
        check_name(name)
    return names


class DMLMethod(Method):
    """The student and its peers, all untrained, learn from the labels and from each other.

    There is no teacher. The peers belong to the method and are trained and checkpointed with it; only the student is
    deployed. The updates alternate on every batch: each update trains one network towards the others' current
    predictions, as in the paper. DIH's code alternates whole epochs.

    A step takes nearly three times as long as kd's for a small student (results/speed.md): every update runs all
    networks again, and the peers run backward passes too.
    """

    weights = LossWeights(0.9, 0.0, 0.1, "DIH's DML; the paper: 1, 0, 1", kd_T=1.0,
                          means={"d": "beta", "alpha": "beta"})
    reads = Reads(teacher=False)
    options = (Option(("--peers",), {"type": name_list, "metavar": "NAME,NAME,...",
                                     "help": "dml: networks that learn beside the student; default: one more of "
                                     "its kind"}),)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        names = opt.peers or [opt.model_s]
        self.peers = nn.ModuleList(create_model(name, opt.num_classes) for name in names)
        for peer in self.peers:
            check_batches(peer, opt.image_size, opt.n_data, opt.batch_size)
        self.peers.to(memory_format=torch.channels_last)
        self.updates = 1 + len(names)
        self.loss = DMLLoss(opt.beta, opt.kd_T, opt.gamma)

    def forward(self, s, t, batch):
        """The KL of the student's loss. Its cross-entropy is a term of the objective, with weight gamma."""
        return self.loss.divergence(s.logits, self._predictions(self.peers, batch))

    def update_loss(self, update, s, batch):
        learner = self.peers[update - 1]
        others = self._predictions([peer for peer in self.peers if peer is not learner], batch)
        return self.loss(learner(batch.images), [s.logits, *others], batch.target)

    @torch.no_grad()
    def _predictions(self, peers, batch):
        """Current logits (B, K) of each peer.

        BatchNorm statistics stay unchanged here: a network counts each batch once, in its own update.
        """
        with freeze_bn_statistics(*peers):
            return [peer(batch.images) for peer in peers]
