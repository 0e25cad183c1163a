"""Methods of embeddings and of trained projections, through the training objective and on the published pairs."""
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn

from dataset import Batch
from distiller_zoo.abound import ABoundMethod
from distiller_zoo.correlation import CorrelationMethod
from distiller_zoo.factor import FactorMethod
from distiller_zoo.pkt import PKTMethod
from distiller_zoo.reviewkd import ReviewKDMethod
from distiller_zoo.rkd import RKDMethod
from distiller_zoo.semckd import SemCKDMethod
from distiller_zoo.simkd import SimKDMethod
from distiller_zoo.srrl import SRRLMethod
from distiller_zoo.vid import VIDMethod
from errors import UsageError
from helper.objective import FirstStage
from models import create_model
from models.deploy import assemble
from models.features import Features
from tests.distiller_zoo.pairs import CLASSES, batch_of, end_first_stages, features, make, options

METHODS = [CorrelationMethod, VIDMethod, RKDMethod, PKTMethod, FactorMethod, SRRLMethod, SemCKDMethod,
           SimKDMethod, ReviewKDMethod]
SMALL = [("resnet14", "resnet8"), ("wrn_16_1", "MobileNetV2"), ("MobileNetV2", "resnet8")]
PAIRS = [("resnet8x4", "ShuffleV2", 32), ("vgg13", "MobileNetV2", 64), ("ResNet50", "vgg8", 40),
         ("wrn_16_2", "ShuffleV1", 48), ("MobileNetV2", "vgg8", 24), ("resnet14", "vgg8", 32),
         ("ResNet18", "resnet8", 20), ("torchvision/resnet18", "resnet8", 64)]
UNEQUAL_STAGES = [("resnet32x4", "vgg8"), ("ResNet50", "resnet20")]

each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


@each_method
@pytest.mark.parametrize(("teacher", "student"), SMALL)
def test_a_step(method, teacher, student):
    size = 32 if method is FactorMethod else 16  # factor refuses the 1x1 maps of MobileNetV2 at 16
    objective, made = make(method, teacher, student, image_size=size)
    before = {key: value.clone() for key, value in objective.teacher.state_dict().items()}
    trained = objective.trained_parameters()
    if method is FactorMethod:
        end_first_stages(made)
        trained = objective.trained_parameters()
    losses = objective(batch_of(4, size))
    assert losses.terms["method"].shape == ()
    assert losses.logits.shape == (4, CLASSES)
    losses.total.backward()
    for name, p in made.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
    assert all(p.grad is None for p in objective.teacher.parameters())
    torch.optim.SGD(trained, lr=0.001).step()
    assert objective(batch_of(4, size)).total.isfinite()
    assert all(torch.equal(value, before[key]) for key, value in objective.teacher.state_dict().items())


def test_factor_refuses_a_map_of_one_place():
    with pytest.raises(UsageError, match="has a single place: use larger images"):
        make(FactorMethod, student="MobileNetV2", image_size=16)


@each_method
@pytest.mark.parametrize("size", [1, 3])
def test_bf16_and_a_short_last_batch(method, size):
    objective, _ = make(method, image_size=16, precision="bf16")
    exact, _ = make(method, image_size=16)
    batch = batch_of(size, 16)
    losses = objective(batch._replace(images=batch.images.to(memory_format=torch.channels_last)))
    losses.total.backward()
    assert losses.terms["method"].dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.trained_parameters())
    assert losses.terms["method"].item() == pytest.approx(exact(batch).terms["method"].item(), rel=0.3, abs=0.05)


@pytest.mark.parametrize(("teacher", "student", "image_size"), PAIRS)
def test_pairs_and_image_sizes(teacher, student, image_size, monkeypatch):
    """All methods, on the meta device, where only shapes are worked out."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **settings: nullcontext())  # it does not know that device
    with torch.device("meta"):
        networks = create_model(student, CLASSES), create_model(teacher, CLASSES)
        batch = Batch(torch.empty(3, 3, image_size, image_size), None, None)
        s, t = features(*networks, batch)
        s = Features([f.detach().requires_grad_() for f in s.feats], s.logits)
        for method in METHODS:
            made = method(*networks, options(method, image_size, n_data=100))
            loss = made(s, t, batch)
            losses = loss if isinstance(loss, dict) else {"method": loss}
            logits = losses.pop("logits", None)
            (loss,) = losses.values()
            assert loss.shape == ()
            trained = [p for name, p in made.named_parameters() if p.requires_grad and "paraphraser" not in name]
            gradients = torch.autograd.grad(loss, [*trained, *s.feats], allow_unused=True)
            assert all(g is not None for g in gradients[:len(trained)])
            assert any(g is not None for g in gradients[len(trained):])
            deployment = made.deploy(networks[0])
            assert deployment.is_student == (logits is None)
            if not deployment.is_student:
                deployed = assemble(deployment, networks[0], nn.ModuleDict({"method": made}))
                assert deployed(batch.images).shape == logits.shape == (3, CLASSES)
        if len(s.maps) == len(t.maps) and "torchvision" not in teacher:
            made = ABoundMethod(*networks, options(ABoundMethod, image_size))
            (stage,) = made.stages()
            assert stage.loss(s, t, batch).shape == ()


@each_method
def test_state_survives_saving_and_copying(method):
    objective, made = make(method, image_size=16)
    objective(batch_of(4, 16))
    other, restored = make(method, image_size=16)
    restored.load_state_dict(made.state_dict())
    other.student.load_state_dict(objective.student.state_dict())
    copied = deepcopy(objective)
    batch = batch_of(4, 16, seed=1)
    expected = objective(batch).total.item()
    assert other(batch).total.item() == expected
    assert copied(batch).total.item() == expected
    assert not any(part in set(objective.teacher.modules()) for part in made.modules())


# The first stage of AB and FT


def test_abound_trains_all_but_the_classifier_first_and_nothing_later():
    objective, made = make(ABoundMethod, teacher="resnet8x4", student="resnet8", init_epochs=3)
    (stage,) = made.stages()
    assert stage.reads.preact
    assert stage.reads.student
    assert (stage.epochs, stage.learning_rate, stage.freeze) == (3, 0.05, (made.connector,))
    batch = batch_of(4)
    loss = stage.loss(*features(objective.student, objective.teacher, batch, preact=True), batch)
    assert FirstStage(objective, stage)(batch).total.item() == pytest.approx(loss.item(), rel=1e-5)
    assert loss.shape == ()
    loss.backward()
    assert {name for name, p in objective.student.named_parameters() if p.grad is None} == {"fc.weight", "fc.bias"}
    assert all(p.grad is not None for p in made.parameters())
    end_first_stages(made)
    assert made.reads is None
    assert list(objective(batch).terms) == ["ce"]
    assert not any(p in set(objective.trained_parameters()) for p in made.parameters())


def test_abound_lowers_its_loss():
    objective, made = make(ABoundMethod)
    batch = batch_of(8)
    optimizer = torch.optim.SGD(objective.trained_parameters(), lr=0.005, momentum=0.9)
    losses = []
    (stage,) = made.stages()
    for _ in range(8):
        losses.append(stage.loss(*features(objective.student, objective.teacher, batch, preact=True), batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("teacher", "student"), UNEQUAL_STAGES)
def test_abound_refuses_unequal_stages(teacher, student):
    with pytest.raises(UsageError, match=r"abound: the student has \d stages .*equally many"):
        make(ABoundMethod, teacher, student)


def test_abound_refuses_networks_without_maps_before_the_relu():
    with pytest.raises(UsageError, match="has no pre-activation features"):
        make(ABoundMethod, "torchvision/resnet18", "ResNet18")


def test_the_paraphraser_is_trained_first_and_frozen_later():
    objective, made = make(FactorMethod, init_epochs=7)
    (stage,) = made.stages()
    assert (stage.epochs, stage.learning_rate, stage.freeze) == (7, 0.01, (made.paraphraser,))
    assert not stage.reads.student
    batch = batch_of(4)
    made.train()
    loss = FirstStage(objective, stage)(batch).total
    loss.backward()
    assert all(p.grad is not None for p in made.paraphraser.parameters())
    assert all(p.grad is None for p in [*made.translator.parameters(), *objective.student.parameters()])
    assert made.paraphraser.training

    objective.zero_grad()
    end_first_stages(made)
    objective.train()
    assert not any(part.training for part in made.paraphraser.modules())
    assert made.translator.training
    objective(batch).total.backward()
    assert all(p.grad is None for p in made.paraphraser.parameters())
    assert all(p.grad is not None for p in made.translator.parameters())


# What the others are built of


def test_srrl_keeps_a_frozen_copy_of_the_classifier():
    objective, made = make(SRRLMethod, teacher="MobileNetV2")
    head = objective.teacher.classifier[0]
    assert torch.equal(made.loss.classifier.weight, head.weight)
    assert made.loss.classifier.weight.data_ptr() != head.weight.data_ptr()
    assert not any(p.requires_grad for p in made.loss.classifier.parameters())
    assert "loss.classifier.weight" in made.state_dict()
    with pytest.raises(UsageError, match="no linear classifier"):
        make(SRRLMethod, teacher="torchvision/squeezenet1_1", image_size=64)


def test_embeddings_of_cc_have_the_width_that_was_asked_for():
    _, made = make(CorrelationMethod, teacher="vgg8", feat_dim=7)
    assert made.embed_s.linear.weight.shape == (7, 64)
    assert made.embed_t.linear.weight.shape == (7, 512)
