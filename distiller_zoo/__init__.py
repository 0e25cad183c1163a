"""The distillation methods, by the name that `--distill` takes. A new one is a file of this folder and a line here."""
from distiller_zoo.base import Features, Loss, Method, Option, Pretraining, Weights
from distiller_zoo.kd import KD, DistillKL
from distiller_zoo.kdmse import KDMSE, DistillMSE
from errors import unknown

methods = {
    "kd": KD,
    "kdmse": KDMSE,
}


def get_method(name):
    """The Method class registered as `name`. Raises UsageError naming the closest ones."""
    if name not in methods:
        raise unknown("method", name, methods)
    return methods[name]


__all__ = ["KD", "KDMSE", "DistillKL", "DistillMSE", "Features", "Loss", "Method", "Option", "Pretraining", "Weights",
           "get_method", "methods"]
