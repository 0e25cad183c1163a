"""Contrastive representation distillation: the memory and the negatives (memory.py), the loss (criterion.py)."""
from crd.criterion import CRDLoss, CRDQueueLoss
from crd.memory import NegativeSampler

__all__ = ["CRDLoss", "CRDQueueLoss", "NegativeSampler"]
