"""Small pieces for tests of methods: options at their defaults, a batch, features of a pair."""
from types import SimpleNamespace

import torch

from dataset import Batch
from models.features import Features

CLASSES = 10


def options(method, image_size=32, **given):
    """Options as train_student.py would hand them to `method`: its flags' defaults, or what is given."""
    defaults = {option.flags[-1].lstrip("-"): option.settings.get("default") for option in method.options}
    common = {"image_size": image_size, "num_classes": CLASSES, "learning_rate": 0.05, "batch_size": 4}
    return SimpleNamespace(**(common | defaults | given))


def batch_of(size, image_size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, image_size, image_size, generator=generator)
    return Batch(images, torch.randint(CLASSES, (size,), generator=generator), torch.arange(size))


def features(student, teacher, batch):
    """Features of both networks, the teacher's without a graph."""
    with torch.no_grad():
        t = Features(*teacher(batch.images, is_feat=True))
    return Features(*student(batch.images, is_feat=True)), t
