"""The distillation methods, by the name that `--distill` takes. A new one is a file of this folder and a line here."""
from distiller_zoo.abound import ABLoss, ABoundMethod
from distiller_zoo.attention import Attention, AttentionMethod
from distiller_zoo.attention_grad import AttentionGradMethod, GradientAttention
from distiller_zoo.composition import Composition
from distiller_zoo.correlation import Correlation, CorrelationMethod, LinearEmbed
from distiller_zoo.crd import CRDMethod
from distiller_zoo.dih import DIHLoss, DIHMethod
from distiller_zoo.dml import DMLLoss, DMLMethod
from distiller_zoo.factor import FactorMethod, FactorTransfer, Paraphraser, Translator
from distiller_zoo.fsp import FSP, FSPMethod
from distiller_zoo.hint import ConvReg, HintLoss, HintMethod
from distiller_zoo.kd import DistillKL, KDMethod
from distiller_zoo.kde import KDE, KDEMethod
from distiller_zoo.kdmse import DistillMSE, KDMSEMethod
from distiller_zoo.kdsvd import KDSVD, KDSVDMethod
from distiller_zoo.method import LossWeights, Method, Modifier, Stage
from distiller_zoo.mhkd import MHKDLoss, MHKDMethod
from distiller_zoo.modifiers.teacher_head import DELTA
from distiller_zoo.nst import NSTLoss, NSTMethod
from distiller_zoo.pkt import PKT, PKTMethod
from distiller_zoo.projector import LogSum, ProjectorMethod
from distiller_zoo.reviewkd import ReviewKDMethod
from distiller_zoo.rkd import RKDLoss, RKDMethod
from distiller_zoo.semckd import SemCKD, SemCKDMethod
from distiller_zoo.similarity import Similarity, SimilarityMethod
from distiller_zoo.simkd import SimKD, SimKDMethod
from distiller_zoo.srrl import SRRL, SRRLMethod
from distiller_zoo.terms import Term, make_terms
from distiller_zoo.tofd import TOFDLoss, TOFDMethod
from distiller_zoo.vid import VIDLoss, VIDMethod
from errors import unknown
from flags import Option
from losses import Loss
from models.features import Features, Reads
from models.shared_head import TeacherHead

methods = {  # each a Method class, or a Composition
    "kd": KDMethod,
    "kdmse": KDMSEMethod,
    "hint": HintMethod,
    "attention": AttentionMethod,
    "attention_grad": AttentionGradMethod,
    "nst": NSTMethod,
    "similarity": SimilarityMethod,
    "correlation": CorrelationMethod,
    "vid": VIDMethod,
    "rkd": RKDMethod,
    "pkt": PKTMethod,
    "abound": ABoundMethod,
    "factor": FactorMethod,
    "fsp": FSPMethod,
    "kdsvd": KDSVDMethod,
    "crd": CRDMethod,
    "srrl": SRRLMethod,
    "semckd": SemCKDMethod,
    "simkd": SimKDMethod,
    "reviewkd": ReviewKDMethod,
    "projector": ProjectorMethod,
    "dih": DIHMethod,
    "mhkd": MHKDMethod,
    "tofd": TOFDMethod,
    "dml": DMLMethod,
    "kde": KDEMethod,
}


def get_method(name):
    """The Composition of 'NAME' or 'NAME+MODIFIER+...'. Raises UsageError for an unknown name, naming similar ones."""
    name, *names = name.split("+")
    if name not in methods:
        raise unknown("method", name, methods)
    method = methods[name]
    if not isinstance(method, Composition):
        method = Composition(name, method, {}, method.weights)
    return method.with_modifiers(names)


def _head_sharing(base, name, weights=None, **means):
    """METHOD+th under HeadSharingKD's name, with its weights. means: as LossWeights.means."""
    method = get_method(base)
    weights = (weights or method.weights)._replace(means=means)
    return method._replace(name=name, weights=weights)


# HeadSharingKD's methods. -d means delta for kdeth and crdth. For kdth the published flag of the teacher's head is
# --beta, and -d means alpha.
methods["kdth"] = _head_sharing("kd+th", "kdth", LossWeights(
    1.0, 1.5, 0.0, "HeadSharingKD, README; there beta is the weight of the teacher's head", DELTA),
    d="alpha", beta="delta")
methods["kdeth"] = _head_sharing("kde+th", "kdeth", d="delta")
methods["crdth"] = _head_sharing("crd+th", "crdth", LossWeights(0.9, 1.0, 0.8, "HeadSharingKD, README", DELTA),
                                 d="delta")


__all__ = ["FSP", "KDE", "KDSVD", "PKT", "SRRL", "ABLoss", "ABoundMethod", "Attention", "AttentionGradMethod",
           "AttentionMethod", "CRDMethod", "Composition", "ConvReg", "Correlation", "CorrelationMethod", "DIHLoss",
           "DIHMethod", "DMLLoss", "DMLMethod", "DistillKL", "DistillMSE", "FSPMethod", "FactorMethod",
           "FactorTransfer", "Features", "GradientAttention", "HintLoss", "HintMethod", "KDEMethod", "KDMSEMethod",
           "KDMethod", "KDSVDMethod", "LinearEmbed", "LogSum", "Loss", "LossWeights", "MHKDLoss", "MHKDMethod",
           "Method", "Modifier", "NSTLoss", "NSTMethod", "Option", "PKTMethod", "Paraphraser", "ProjectorMethod",
           "RKDLoss", "RKDMethod", "Reads", "ReviewKDMethod", "SRRLMethod", "SemCKD", "SemCKDMethod", "SimKD",
           "SimKDMethod", "Similarity", "SimilarityMethod", "Stage", "TOFDLoss", "TOFDMethod", "TeacherHead", "Term",
           "Translator", "VIDLoss", "VIDMethod", "get_method", "make_terms", "methods"]
