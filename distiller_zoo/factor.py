"""Paraphrasing Complex Network: Network Compression via Factor Transfer. Kim et al. NeurIPS 2018, arXiv 1802.04977.

L = 1 / (B H W) * sum_{b,hw} |q(T(f_s)) - q(P(f_t))|,   q(g) = a / ||a||_2 over hw,   a = 1/C * sum_c g_c^2
P: the encoder of an autoencoder of the teacher's last map (paraphraser);   T: translator, trained with the student
"""
import torch
from torch import nn

from distiller_zoo.hint import HintLoss
from distiller_zoo.method import LossWeights, Method, Stage
from distiller_zoo.options import INIT_EPOCHS
from errors import UsageError
from losses import Loss, pool_to_match, unit
from models.features import Reads


class FactorTransfer(Loss):
    """Mean absolute difference of the two factors' normalised attention maps.

    The paper compares the normalised factors themselves. RepDistiller's code compares their attention maps, and the
    published beta and numbers belong to that code.

    Args:
        p1: power of the activations.
        p2: power of the difference; 1 takes the absolute value.

    Shapes: g_s (B, C_s, H_s, W_s), g_t (B, C_t, H_t, W_t) -> () loss. The larger map is average-pooled.
    """

    def __init__(self, p1=2, p2=1):
        super().__init__()
        self.p1, self.p2 = p1, p2

    def forward(self, g_s, g_t):
        g_s, g_t = pool_to_match(g_s, g_t)
        difference = self._map(g_s) - self._map(g_t)
        return difference.abs().mean() if self.p2 == 1 else difference.pow(self.p2).mean()

    def _map(self, g):
        return unit(g.pow(self.p1).mean(1).flatten(1), dim=1)  # (B, C, H, W) -> (B, HW)


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's map, without BatchNorm. Its code is the factor, with k times the channels.

    Args:
        t_shape: (C, H, W) or (B, C, H, W) of the teacher's map.
        k: channels of the factor over those of the map.

    Shapes: f_t (B, C, H, W) -> (B, k C, H, W).
    """

    def __init__(self, t_shape, k=0.5):
        super().__init__()
        channels = t_shape[-3]
        code = int(channels * k)
        self.encoder = _stack(nn.Conv2d, [channels, channels, code, code], norm=nn.Sequential)
        self.decoder = _stack(nn.ConvTranspose2d, [code, code, channels, channels], norm=nn.Sequential)

    def forward(self, f_t):
        return self.encoder(f_t)

    def reconstruct(self, f_t):
        """The decoder's reconstruction of the map: (B, C, H, W) -> (B, C, H, W)."""
        return self.decoder(self.encoder(f_t))


class Translator(nn.Module):
    """Encodes the student's map as a factor with k times the teacher's channels.

    Args:
        s_shape, t_shape: (C, H, W) or (B, C, H, W) of the two maps.
        k: channels of the factor over those of the teacher's map.

    Shapes: f_s (B, C_s, H, W) -> (B, k C_t, H, W).
    """

    def __init__(self, s_shape, t_shape, k=0.5):
        super().__init__()
        channels, code = s_shape[-3], int(t_shape[-3] * k)
        self.encoder = _stack(nn.Conv2d, [channels, channels, code, code], norm=nn.BatchNorm2d)

    def forward(self, f_s):
        return self.encoder(f_s)


def _stack(conv, channels, norm):
    """Three 3x3 convolutions, each followed by `norm` and a leaky ReLU of slope 0.1.

    norm: nn.BatchNorm2d, or nn.Sequential for none, an empty layer that keeps the published names.
    """
    layers = []
    for i in range(3):
        c_in, c_out = channels[i : i + 2]
        layers += [conv(c_in, c_out, 3, padding=1), norm(c_out) if norm is nn.BatchNorm2d else norm(),
                   nn.LeakyReLU(0.1, inplace=True)]
    return nn.Sequential(*layers)


class FactorMethod(Method):
    """The factor of the student's last map is matched to the factor of the teacher's.

    A first stage trains the paraphraser, which encodes the teacher's map; the main stage trains the translator with the
    student.

    Raises:
        UsageError: a last map has a single position.
    """

    weights = LossWeights(1.0, 0.0, 200.0, "RepDistiller, scripts/run_cifar_distill.sh")
    options = (INIT_EPOCHS,)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        s_shape, t_shape = self.s_shapes[-2], self.t_shapes[-2]
        if 1 in (s_shape[1] * s_shape[2], t_shape[1] * t_shape[2]):
            raise UsageError(f"factor: the last maps, {s_shape} (student) and {t_shape} (teacher), are compared by "
                             "where they are active, and one of them has a single place: use larger images or networks "
                             "that reduce them less")
        self.paraphraser = Paraphraser(t_shape)
        self.translator = Translator(s_shape, t_shape)
        self.loss = FactorTransfer()
        self.reconstruction, self.init_epochs = HintLoss(), opt.init_epochs

    def forward(self, s, t, batch):
        with torch.no_grad():
            g_t = self.paraphraser(t.feats[-2])
        return self.loss(self.translator(s.feats[-2]), g_t)

    def stages(self):
        # RepDistiller uses 0.01 for resnet and wrn students and the student's learning rate for others. The paraphraser
        # does not depend on the student, so it is 0.01 for all here.
        return [Stage(self.init_epochs, 0.01, self._reconstruct, Reads(student=False), freeze=(self.paraphraser,))]

    def _reconstruct(self, s, t, batch):
        return self.reconstruction(self.paraphraser.reconstruct(t.feats[-2]), t.feats[-2])

    def train(self, mode=True):
        super().train(mode)
        frozen = not any(p.requires_grad for p in self.paraphraser.parameters())
        self.paraphraser.train(mode and not frozen)
        return self
