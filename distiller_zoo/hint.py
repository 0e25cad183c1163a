"""FitNets: Hints for Thin Deep Nets. Romero, Ballas, Kahou, Chassang, Gatta, Bengio. ICLR 2015, arXiv 1412.6550.

L = 1 / (B C H W) * sum (r(f_s) - f_t)^2,   r: convolution, BatchNorm, ReLU
"""
import torch.nn.functional as F
from torch import nn

from distiller_zoo.method import LossWeights, Method, Stage
from distiller_zoo.options import INIT_EPOCHS
from errors import UsageError
from flags import Option
from losses import Loss, pool_to_match
from models.features import Reads


class HintLoss(Loss):
    """Mean squared error of two maps. The larger map is average-pooled to the smaller one's size.

    The paper uses half the sum of squares. Every implementation uses the mean, and the published beta belongs to it.

    Shapes: f_s (B, C, H_s, W_s), f_t (B, C, H_t, W_t) -> () loss.
    """

    def forward(self, f_s, f_t):
        f_s, f_t = pool_to_match(f_s, f_t)
        return F.mse_loss(f_s, f_t.detach())


class ConvReg(nn.Module):
    """Regressor from the student's map to the teacher's channels and, where one convolution can, to its size.

    The convolution depends on the height of the student's map:
    - twice the teacher's: 3x3 of stride 2;
    - half the teacher's: transposed 4x4 of stride 2;
    - equal, or larger by any other d: (1+d)x(1+d) without padding;
    - smaller otherwise: 3x3 at the student's size, and the teacher's map has to be pooled (SimKD's rule; RepDistiller
      refuses such pairs).

    Args:
        s_shape, t_shape: (C, H, W) or (B, C, H, W) of the two maps.
        relu: apply a ReLU last, as FitNet does; False returns BatchNorm's output.

    Shapes: f_s (B, C_s, H_s, W_s) -> (B, C_t, H, W), where (H, W) is the teacher's size, or the student's by SimKD's
    rule.
    """

    def __init__(self, s_shape, t_shape, relu=True):
        super().__init__()
        (c_s, h_s, w_s), (c_t, h_t, w_t) = s_shape[-3:], t_shape[-3:]
        if h_s == 2 * h_t:
            self.conv = nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
        elif 2 * h_s == h_t:
            self.conv = nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
        elif h_s >= h_t:
            self.conv = nn.Conv2d(c_s, c_t, (1 + h_s - h_t, 1 + w_s - w_t))
        else:
            self.conv = nn.Conv2d(c_s, c_t, 3, padding=1)
        self.bn = nn.BatchNorm2d(c_t)
        self.relu = relu

    def forward(self, f_s):
        f = self.bn(self.conv(f_s))
        return F.relu(f) if self.relu else f


class HintMethod(Method):
    """One map of the student, after a trained regressor, is matched to the teacher's map of the same index.

    The paper trains in two stages: the hint loss alone, then cross-entropy and KL (T 4, alpha 0.9) alone. The tables of
    later papers use the losses together; the default weights are for that.

    Raises:
        UsageError: one of the networks has no map --hint_layer.
    """

    weights = LossWeights(1.0, 0.0, 100.0, "RepDistiller, scripts/run_cifar_distill.sh; two-stage FitNet: 0.1, 0.9, 0")
    options = (
        Option(("--hint_layer",), {"type": int, "choices": range(5), "default": 2, "metavar": "0-4",
                                   "help": "hint: which map is matched, 0 being the stem's; 2 is RepDistiller's, 1 "
                                   "SimKD's"}),
        Option(("--hint_stage",), {"choices": ["joint", "two"], "default": "joint",
                                   "help": "hint: joint adds beta * hint loss to the others; two trains on it alone "
                                   "for --init_epochs, then without it, as FitNet was published (-r 0.1 -a 0.9)"}),
        INIT_EPOCHS,
    )

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.layer = opt.hint_layer
        self.joint, self.schedule = opt.hint_stage == "joint", (opt.init_epochs, opt.learning_rate)
        self.reads = Reads(depth=self.layer + 1) if self.joint else None
        s_maps, t_maps = self.s_shapes[:-1], self.t_shapes[:-1]  # the embedding has no height to convolve along
        common = min(len(s_maps), len(t_maps))
        if self.layer >= common:
            raise UsageError(f"hint: there is no map {self.layer} in both networks, the student's maps being {s_maps} "
                             f"and the teacher's {t_maps}: use --hint_layer 0 to {common - 1}")
        self.regressor = ConvReg(s_maps[self.layer], t_maps[self.layer])
        self.loss = HintLoss()

    def forward(self, s, t, batch):
        return self.loss(self.regressor(s.feats[self.layer]), t.feats[self.layer])

    def stages(self):
        if self.joint:
            return []
        return [Stage(*self.schedule, self.forward, Reads(depth=self.layer + 1), freeze=(self.regressor,))]
