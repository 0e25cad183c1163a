"""Understanding the Role of the Projector in Knowledge Distillation. Miles, Mikolajczyk. AAAI 2024, arXiv 2303.11098.

u = BN(W e_s + b),   v = BN(e_t)
diff: L = ln sum_{b,i} |u_bi - v_bi|^4          (the paper, and its ResNet34 -> ResNet18)
corr: L = ln sum_i |c_i - 1|^4,   c_i = 1/B sum_b u_bi v_bi          (its RegNetY -> DeiT)
"""
from torch import nn

from distiller_zoo.method import LossWeights, Method
from errors import UsageError, unknown
from flags import Option
from losses import Loss, unit
from models.norm import BatchNorm2d

# Keeps the logarithm finite at a perfect match. corr's value is published (the loss is then -11.5). The published diff
# has none; 1e-8 is far below any sum that training reaches.
LOG_EPS = {"diff": 1e-8, "corr": 1e-5}
NORM_EPS = {"diff": 1e-4, "corr": 1e-5}  # diff's is published; corr's was 0, which PyTorch refuses today


class LogSum(Loss):
    """Logarithm of a sum of differences to the power of `alpha`.

    The differences are those of the entries (diff), or of each channel's correlation from 1 (corr). The loss is
    negative when the two match well. The sum is not divided by B, which would only add a constant.

    Args:
        mode: diff or corr.
        alpha: exponent, 4 as published.

    Shapes: u, v (B, D), projected and normalised -> () loss.

    Raises UsageError for any other mode.
    """

    def __init__(self, mode="diff", alpha=4.0):
        super().__init__()
        if mode not in LOG_EPS:
            raise unknown("mode of LogSum", mode, LOG_EPS)
        self.mode, self.alpha, self.eps = mode, alpha, LOG_EPS[mode]

    def forward(self, u, v):
        v = v.detach()
        difference = u - v if self.mode == "diff" else (u * v).mean(0) - 1  # (B, D) or (D,)
        return (difference.abs().pow(self.alpha).sum() + self.eps).log()


class ProjectedLogSum(Loss):
    """LogSum of the student's projected embedding and the teacher's embedding, each normalised.

    Args:
        s_dim, t_dim: widths of the embeddings; they must be equal for projector none.
        mode: diff or corr.
        projector: linear, mlp (linear, BatchNorm, ReLU, linear; hidden width t_dim) or none.
        norm: bn (without trained scale and shift), l2 (unit length) or none.

    Shapes: e_s (B, s_dim), e_t (B, t_dim) -> () loss.
    """

    def __init__(self, s_dim, t_dim, mode="diff", projector="linear", norm="bn"):
        super().__init__()
        self.logsum = LogSum(mode)
        self.projector = {"linear": lambda: nn.Linear(s_dim, t_dim), "none": nn.Identity,
                          "mlp": lambda: nn.Sequential(nn.Linear(s_dim, t_dim), _BatchNorm(t_dim), nn.ReLU(),
                                                       nn.Linear(t_dim, t_dim))}[projector]()
        make = {"bn": lambda: _BatchNorm(t_dim, eps=NORM_EPS[mode], affine=False), "l2": _Unit, "none": nn.Identity}
        self.norm_s, self.norm_t = make[norm](), make[norm]()

    def forward(self, e_s, e_t):
        return self.logsum(self.norm_s(self.projector(e_s)), self.norm_t(e_t.detach()))


class _BatchNorm(BatchNorm2d):
    """BatchNorm of (B, D); accepts a batch of one sample in training mode."""

    def forward(self, e):
        return super().forward(e[:, :, None, None]).flatten(1)


class _Unit(nn.Module):
    def forward(self, e):
        return unit(e, dim=1)


class ProjectorMethod(Method):
    """The student's projected embedding is matched to the teacher's, entry by entry or channel by channel.

    The published DeiT compares the mean of its patch tokens with the pooled last map; here both embeddings are the
    classifiers' inputs. The projector is not deployed.

    Raises:
        UsageError: the widths differ and --projector is none.
    """

    weights = LossWeights(1.0, 1.0, 2.0, "the authors' ResNet34 -> ResNet18 (diff); their DeiT (corr): 1, 1, 1",
                          kd_T=1.0)
    options = (
        Option(("--projector_loss",), {"choices": ["diff", "corr"], "default": "diff",
                                       "help": "projector: the paper's difference, published with -b 2, or its "
                                       "DeiT's correlation, with -b 1 and bn: with l2 the channels' correlations, each "
                                       "to become 1, add up to 1 at most, and with none they grow with the scale"}),
        Option(("--projector",), {"choices": ["none", "linear", "mlp"], "default": "linear",
                                  "help": "projector: what is between the student's embedding and the teacher's"}),
        Option(("--projector_norm",), {"choices": ["bn", "l2", "none"], "default": "bn",
                                       "help": "projector: how both are normalised before they are compared"}),
    )

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        (s_dim,), (t_dim,) = self.s_shapes[-1], self.t_shapes[-1]
        if opt.projector == "none" and s_dim != t_dim:
            raise UsageError(f"projector: embeddings of {s_dim} (student) and {t_dim} (teacher) features cannot be "
                             "compared with --projector none: use linear or mlp")
        self.loss = ProjectedLogSum(s_dim, t_dim, opt.projector_loss, opt.projector, opt.projector_norm)

    def forward(self, s, t, batch):
        return self.loss(s.embedding, t.embedding)
