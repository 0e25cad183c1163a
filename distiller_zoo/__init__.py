"""The distillation methods, by the name that `--distill` takes. A new one is a file of this folder and a line here."""
from distiller_zoo.abound import ABLoss, ABound
from distiller_zoo.attention import Attention, AttentionTransfer
from distiller_zoo.attention_grad import GradientAttention, GradientAttentionTransfer
from distiller_zoo.base import Features, Loss, Method, Option, Pretraining, Weights
from distiller_zoo.correlation import Correlation, CorrelationCongruence, LinearEmbed
from distiller_zoo.crd import CRD
from distiller_zoo.dih import DIHLoss, IntermediateHeads
from distiller_zoo.dml import DMLLoss, MutualLearning
from distiller_zoo.factor import Factor, FactorTransfer, Paraphraser, Translator
from distiller_zoo.fsp import FSP, FlowTransfer
from distiller_zoo.hint import ConvReg, Hint, HintLoss
from distiller_zoo.kd import KD, DistillKL
from distiller_zoo.kde import KDE, EmbeddingDistance
from distiller_zoo.kdmse import KDMSE, DistillMSE
from distiller_zoo.kdsvd import KDSVD, SVDTransfer
from distiller_zoo.mhkd import MHKDLoss, MultiHead
from distiller_zoo.nst import NST, NSTLoss
from distiller_zoo.pkt import PKT, ProbabilisticTransfer
from distiller_zoo.projector import LogSum, Projector
from distiller_zoo.reviewkd import ReviewKD
from distiller_zoo.rkd import RKD, RKDLoss
from distiller_zoo.semckd import CrossLayer, SemCKD
from distiller_zoo.similarity import Similarity, SimilarityPreserving
from distiller_zoo.simkd import ReusedClassifier, SimKD
from distiller_zoo.srrl import SRRL, SoftmaxRegression
from distiller_zoo.teacher_head import CRDTH, KDETH, KDTH, with_teacher_head
from distiller_zoo.tofd import TaskOrientedFeatures, TOFDLoss
from distiller_zoo.vid import VID, VIDLoss
from errors import unknown
from models.shared_head import TeacherHead

methods = {
    "kd": KD,
    "kdmse": KDMSE,
    "hint": Hint,
    "attention": AttentionTransfer,
    "attention_grad": GradientAttentionTransfer,
    "nst": NST,
    "similarity": SimilarityPreserving,
    "correlation": CorrelationCongruence,
    "vid": VID,
    "rkd": RKD,
    "pkt": ProbabilisticTransfer,
    "abound": ABound,
    "factor": Factor,
    "fsp": FlowTransfer,
    "kdsvd": SVDTransfer,
    "crd": CRD,
    "srrl": SoftmaxRegression,
    "semckd": CrossLayer,
    "simkd": ReusedClassifier,
    "reviewkd": ReviewKD,
    "projector": Projector,
    "dih": IntermediateHeads,
    "mhkd": MultiHead,
    "tofd": TaskOrientedFeatures,
    "dml": MutualLearning,
    "kde": EmbeddingDistance,
    "kdth": KDTH,
    "kdeth": KDETH,
    "crdth": CRDTH,
}

modifiers = {"th": with_teacher_head}  # METHOD+NAME: from a method's class, another one's


def get_method(name):
    """The Method class registered as `name`, or of 'NAME+th'. Raises UsageError naming the closest ones."""
    name, *modified = name.split("+")
    if name not in methods:
        raise unknown("method", name, methods)
    method = methods[name]
    for modifier in modified:
        if modifier not in modifiers:
            raise unknown("modifier of a method", modifier, modifiers)
        method = modifiers[modifier](method)
    return method


__all__ = ["CRD", "CRDTH", "FSP", "KD", "KDE", "KDETH", "KDMSE", "KDSVD", "KDTH", "NST", "PKT", "RKD", "SRRL", "VID",
           "ABLoss", "ABound", "Attention", "AttentionTransfer", "ConvReg", "Correlation",
           "CorrelationCongruence", "CrossLayer", "DIHLoss", "DMLLoss", "DistillKL", "DistillMSE",
           "EmbeddingDistance", "Factor", "FactorTransfer", "Features", "FlowTransfer", "GradientAttention",
           "GradientAttentionTransfer", "Hint", "HintLoss", "IntermediateHeads", "LinearEmbed", "LogSum",
           "Loss", "MHKDLoss", "Method", "MultiHead", "MutualLearning", "NSTLoss", "Option", "Paraphraser",
           "Pretraining", "ProbabilisticTransfer", "Projector", "RKDLoss", "ReusedClassifier", "ReviewKD",
           "SVDTransfer", "SemCKD", "SimKD", "Similarity", "SimilarityPreserving", "SoftmaxRegression",
           "TOFDLoss", "TaskOrientedFeatures", "TeacherHead", "Translator", "VIDLoss", "Weights",
           "get_method", "methods", "modifiers"]
