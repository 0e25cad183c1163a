"""It's All in the Head (TH-KD: the teacher's classifier on the student). Ben-Baruch et al. 2022, arXiv 2201.06945.

A modifier of any method: METHOD+th.

L = L_METHOD + delta * KL_T(W_t e_s + b_t, z_t),   W_t, b_t: the teacher's classifier, frozen
"""
import torch

from distiller_zoo.kd import DistillKL
from distiller_zoo.method import Method, Modifier
from distiller_zoo.options import TH_ADAPTER
from distiller_zoo.terms import Term
from errors import UsageError
from flags import Option, number
from models import get_classifier
from models.deploy import Deployment, check_head_weight, head_weight, mixture
from models.features import Reads
from models.shared_head import TeacherHead, check_widths

DELTA = 0.02  # the weight of the teacher's head in both published commands
CHOICE = (  # flags that choose the predicting head, also in evaluate.py
    Option(("--th_inference",), {"type": int, "choices": [0, 1], "nargs": "?", "const": 1, "default": 0,
                                 "metavar": "0|1", "help": "+th: 1: the teacher's head predicts at test time; the same "
                                 "as --validation_th_weight 1"}),
    Option(("--validation_th_weight",), {"type": number(float, at_least=0, at_most=1), "default": 0.0, "metavar": "W",
                                         "help": "+th: predict by (1 - W) * the own head's probabilities + W * the "
                                         "teacher's head's"}),
)


class TeacherHeadModifier(Modifier):
    """Adds the teacher's frozen classifier as a second head on the student's embedding.

    The KL of the second head has a gradient for the student's backbone only (and for the adapter, where the widths
    differ). At test time the student's own head predicts, the teacher's head, or a mixture of their probabilities.

    Raises:
        UsageError: --th_adapter none with different widths; a predicting head for a method that predicts in its own
            way; a predicting head whose adapter --delta 0 leaves untrained.
    """

    options = (
        Option(("--kdth_t",), {"type": number(float, above=0), "default": 4.0, "metavar": "T",
                               "help": "+th: temperature of the KL on the teacher's head"}),
        TH_ADAPTER,
        *CHOICE,
    )

    def __init__(self, student, teacher, opt, method):
        super().__init__(student, teacher, opt, method)
        classifier, (s_dim,) = get_classifier(teacher), method.s_shapes[-1]
        check_widths(s_dim, classifier.in_features, opt.th_adapter)
        self.head = TeacherHead(classifier, s_dim)
        self.delta, self.width = opt.delta, s_dim
        self.th_weight = head_weight(opt.th_inference, opt.validation_th_weight)
        self.predicts_itself = type(method).deploy is not Method.deploy
        if self.th_weight and self.predicts_itself:
            raise UsageError(f"{opt.distill} predicts in its own way at test time: leave out --th_inference and "
                             "--validation_th_weight")
        check_head_weight(self.th_weight, self.trained)
        self.kl = DistillKL(opt.kdth_t)
        self.reads = Reads(teacher=self.delta > 0)

    @property
    def trained(self):
        """Whether the head needs no adapter, or has an adapter that is trained."""
        return self.head.adapter is None or self.delta > 0

    @classmethod
    def weights_of(cls, weights):
        """The method's LossWeights with delta = DELTA."""
        return weights._replace(delta=DELTA)

    @classmethod
    def check(cls, method):
        if not (method.reads or Reads()).teacher:
            raise UsageError("the method has no teacher whose head could be shared: leave out +th")

    def terms(self):
        return [Term("th", self.delta, self)] if self.delta or self.th_weight else []

    def forward(self, s, t, batch):
        z_th = self.head(s.embedding)
        parts = {"th": self.kl(z_th, t.logits.detach())} if self.delta else {}
        if self.th_weight:
            with torch.no_grad():
                parts["logits"] = mixture(s.logits, z_th, self.th_weight)
        return parts

    def deploy(self, deployment):
        if self.predicts_itself:
            return deployment._replace(spec=deployment.spec | {"beside_head": True})
        spec = {"width": self.width, "t_width": self.head.in_features, "classes": self.head.out_features,
                "bias": self.head.bias is not None, "trained": self.trained, "th_weight": self.th_weight}
        return Deployment("shared_head", spec, {"head": "modifiers.th.head"})
