"""Knowledge Distillation with the Reused Teacher Classifier. Chen et al. CVPR 2022, arXiv 2203.14001.

L = 1 / (B C H W) * sum (P(f_s) - f_t)^2,   P: 1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU
prediction = W_t avgpool(P(f_s)) + b_t,   f the last maps, W_t, b_t the teacher's classifier
"""
from copy import deepcopy

import torch

from distiller_zoo.hint import HintLoss
from distiller_zoo.method import LossWeights, Method
from errors import UsageError
from flags import Option, number
from models import get_classifier
from models.deploy import Deployment
from models.probe import pooled_shape, unwrap
from models.reused import SimKD


class SimKDMethod(Method):
    """The student's projected last map is matched to the teacher's map before the average; the teacher's classifier
    predicts from it.

    The student's own classifier is not used. The state of student and method holds everything that the deployed network
    needs, so it is rebuilt without the teacher's weights.

    Raises:
        UsageError: --beta 0, or a --factor above the teacher's channels; and as models.probe.pooled_shape.
    """

    weights = LossWeights(0.0, 0.0, 1.0, "SimKD, scripts/run_distill.sh")
    options = (Option(("-f", "--factor"), {"type": number(int, at_least=1), "default": 2, "metavar": "N",
                                           "help": "simkd: what the teacher's channels are divided by within the "
                                           "projector"}),)

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        if getattr(opt, "beta", None) == 0:
            raise UsageError("simkd: --beta 0 leaves nothing that trains the network which it evaluates: use 1")
        teacher = unwrap(teacher)
        t_channels, *t_size = pooled_shape(teacher, opt.image_size)
        if opt.factor > t_channels:
            raise UsageError(f"simkd: --factor {opt.factor} leaves nothing of the teacher's {t_channels} channels: use "
                             "2, 4 or 8")
        self.t_size, self.image_size, self.factor = tuple(t_size), opt.image_size, opt.factor
        self.projector = SimKD(self.s_shapes[-2][0], t_channels, opt.factor)
        self.classifier = deepcopy(get_classifier(teacher)).requires_grad_(False)
        self.loss = HintLoss()
        self.teacher = (teacher,)  # for pooled_map alone; in a tuple, so that it does not become a sub-module

    def forward(self, s, t, batch):
        with torch.no_grad():
            f_t = self.teacher[0].pooled_map(t.feats[-2])
        projected, target = self.projector(s.feats[-2], f_t)
        with torch.no_grad():  # from this pass: a second one would update BatchNorm's statistics again
            logits = self.classifier(projected.mean((2, 3)))
        return {"method": self.loss(projected, target), "logits": logits}

    def deploy(self, student):
        spec = {"s_channels": self.s_shapes[-2][0], "t_channels": self.classifier.in_features, "factor": self.factor,
                "t_size": list(self.t_size), "image_size": self.image_size, "classes": self.classifier.out_features,
                "bias": self.classifier.bias is not None}
        parts = {"projector": "method.projector", "classifier": "method.classifier"}
        return Deployment("reused_classifier", spec, parts)
