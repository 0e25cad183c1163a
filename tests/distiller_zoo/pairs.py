"""Small pieces for tests of methods: options at their defaults, a batch, a pair's objective and features."""
import torch

from dataset import Batch
from distiller_zoo import Composition, make_terms, methods
from flags import Options
from helper.device import Device
from helper.objective import Objective
from models import create_model
from models.features import Features
from tasks import CLASSIFICATION

CLASSES = 10
CPU = Device(torch.device("cpu"), [], "fp32")


def composed(method):
    """The Composition of a method's class, which need not be registered; one that is given, unchanged."""
    if isinstance(method, Composition):
        return method
    name = next((name for name, known in methods.items() if known is method), method.__name__)
    return Composition(name, method, {}, method.weights)


def options(method, image_size=32, **given):
    """Options as train_student.py would hand them to `method`: its flags' defaults, or what is given."""
    common = {"image_size": image_size, "num_classes": CLASSES, "learning_rate": 0.05, "batch_size": 4}
    return composed(method).defaults(**(common | given))


def make(method, teacher="resnet14", student="resnet8", image_size=32, precision="fp32", **given):
    """(objective with the method's published weights, method) of a new pair of networks."""
    torch.manual_seed(0)
    networks = create_model(student, CLASSES), create_model(teacher, CLASSES)
    opt = options(method, image_size, **({"n_data": 100} | given))
    made, modifiers = composed(method).build(*networks, opt)
    terms = make_terms(CLASSIFICATION.criterion, opt, made, modifiers)
    return Objective(networks[0], CPU._replace(precision=precision), terms, networks[1], made, modifiers).train(), made


def weighted(objective, gamma, alpha, beta):
    """The objective of the same networks and method with other weights."""
    opt = Options({"distill": "METHOD", "gamma": gamma, "alpha": alpha, "beta": beta, "kd_T": 4.0})
    method, modifiers = objective.method, objective.modifiers
    terms = make_terms(CLASSIFICATION.criterion, opt, method, modifiers)
    return Objective(objective.student, objective.network.device, terms, objective.teacher, method, modifiers).train()


def end_first_stages(method):
    """Leaves the method as its first stages leave it for the main one."""
    for stage in method.stages():
        for module in stage.freeze:
            module.requires_grad_(False)


def batch_of(size, image_size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, image_size, image_size, generator=generator)
    return Batch(images, torch.randint(CLASSES, (size,), generator=generator), torch.arange(size))


def features(student, teacher, batch, **settings):
    """Features of both networks, the teacher's without a graph."""
    with torch.no_grad():
        t = Features(*teacher(batch.images, is_feat=True, **settings))
    return Features(*student(batch.images, is_feat=True, **settings)), t
