"""Logit Standardization in Knowledge Distillation. Sun, Ren, Li, Wang, Cao. CVPR 2024, arXiv 2403.01427.

A modifier of the terms on the logits: METHOD+ls.

z -> (z - mean_c z) / (std_c z + 1e-7) of both networks, std with divisor K - 1; cross-entropy sees z itself
"""
import torch

from distiller_zoo.method import Modifier
from errors import UsageError

EPS = 1e-7
SCALE, TEMPERATURE = 10, 2.0  # published for kd: alpha 9 where kd alone has 0.9, and T 2; T^2 is kept


def standardise(z):
    """Each sample's logits at zero mean and unit deviation: (B, K) -> (B, K) float32. A constant row becomes zeros."""
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    return (z - z.mean(dim=1, keepdim=True)) / (EPS + z.std(dim=1, keepdim=True))


class LogitStandardizationModifier(Modifier):
    """Standardises both networks' logits before the losses on the logits compare them."""

    @classmethod
    def check(cls, method):
        logits = method.reads is not None and method.reads.logits
        if "alpha" in method.weights.means and not logits:  # -a means a weight of the method's own
            raise UsageError("the method has no term that compares the logits alone, and no -a for one: leave out +ls")

    @classmethod
    def weights_of(cls, weights):
        """The method's LossWeights with alpha multiplied by SCALE, and kd_T = TEMPERATURE."""
        return weights._replace(alpha=weights.alpha * SCALE, kd_T=TEMPERATURE)

    def view(self, s, t):
        if t is None or t.logits is None:
            return s, t
        return s._replace(logits=standardise(s.logits)), t._replace(logits=standardise(t.logits))
