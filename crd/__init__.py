"""Contrastive representation distillation: what is contrasted (memory.py), and the loss (criterion.py)."""
from crd.criterion import CRDLoss, CRDQueueLoss
from crd.memory import NegativeSampler

__all__ = ["CRDLoss", "CRDQueueLoss", "NegativeSampler"]
