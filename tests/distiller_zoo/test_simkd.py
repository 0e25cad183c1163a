"""SimKD: the projector, what is predicted and deployed, with every kind of teacher."""
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distiller_zoo.simkd import SimKD, SimKDMethod
from errors import UsageError
from models import create_model
from models.checkpoint import save_checkpoint
from models.deploy import assemble, rebuild
from models.loading import load_model
from tests.distiller_zoo.pairs import CLASSES, batch_of, make, options
from tests.distiller_zoo.published import load_parameters
from tests.golden import classic, draw_inputs


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_prediction():
    case = classic["losses"]["SimKD"]["cases"][0]
    projector, classifier = SimKD(8, 16), nn.Linear(16, 10)
    for module, block in zip((projector, classifier), case["params"], strict=True):
        load_parameters(module, block)
    projected, target = projector(*draw_inputs(case).values())
    logits = classifier(projected.mean((2, 3)))
    assert not target.requires_grad
    assert logits.sum().item() == pytest.approx(case["out"]["pred_sum"], rel=1e-4)
    assert logits.norm().item() == pytest.approx(case["out"]["pred_l2"], rel=1e-4)


@pytest.mark.parametrize(("s", "t", "factor", "parameters"), [
    (256, 256, 2, 214_016), (256, 256, 4, 70_400), (256, 256, 8, 26_240), (512, 256, 2, 246_784),
    (704, 256, 8, 40_576), (512, 2048, 2, 12_066_816)])
def test_published_sizes_of_the_projector(s, t, factor, parameters):
    with torch.device("meta"):
        assert count(SimKD(s, t, factor)) == parameters


@pytest.mark.parametrize(("s_size", "t_size"), [(8, 4), (4, 8), (4, 4)])
def test_maps_meet_at_the_smaller_size(s_size, t_size):
    projected, target = SimKD(3, 6)(torch.randn(2, 3, s_size, s_size), torch.randn(2, 6, t_size, t_size))
    assert projected.shape == target.shape == (2, 6, 4, 4)


def watched(made):
    """A list that takes (projected, target) of every forward pass to come."""
    seen = []
    made.projector.register_forward_hook(lambda module, inputs, output: seen.append(output))
    return seen


@pytest.mark.parametrize("teacher", ["resnet14", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2", "ResNet18",
                                     "torchvision/resnet18"])
def test_the_target_is_what_the_teachers_classifier_averages(teacher):
    objective, made = make(SimKDMethod, teacher=teacher)
    seen, batch = watched(made), batch_of(2)
    objective(batch)
    (_, target), = seen
    logits = made.classifier(target.mean((2, 3)))
    torch.testing.assert_close(logits, objective.teacher(batch.images))


@pytest.mark.parametrize(("teacher", "student"), [("resnet14", "resnet8"), ("MobileNetV2", "resnet8"),
                                                  ("resnet14", "MobileNetV2"), ("wrn_16_1", "ShuffleV2"),
                                                  ("torchvision/resnet18", "wrn_16_1")])
def test_prediction_and_deployed_network_agree(teacher, student):
    """Also where the student's map is the larger one, which is pooled without asking the teacher."""
    objective, _ = make(SimKDMethod, teacher, student, image_size=64)
    objective(batch_of(4, 64))
    objective.eval()
    batch = batch_of(3, 64, seed=1)
    expected = objective(batch).logits
    objective.teacher.forward = None  # it is not needed any more
    deployed = objective.deployed().eval()
    torch.testing.assert_close(deployed(batch.images), expected)


def test_one_update_of_batchnorm_in_a_step():
    objective, made = make(SimKDMethod)
    seen = watched(made)
    losses = objective(batch_of(4))
    assert len(seen) == 1
    assert made.projector.transfer[1].num_batches_tracked == 1
    assert not losses.logits.requires_grad
    torch.testing.assert_close(losses.logits, made.classifier(seen[0][0].mean((2, 3))))


@pytest.mark.parametrize(("student", "unused"), [("resnet8", 64 * 10 + 10), ("ShuffleV2", 464 * 1024 + 2048 + 10250),
                                                 ("MobileNetV2", 160 * 1280 + 2560 + 12810), ("wrn_16_1", 128 + 650)])
def test_deployed_parameters_are_those_that_are_used(student, unused):
    objective, made = make(SimKDMethod, student=student)
    state = torch.get_rng_state()
    deployed = objective.deployed()
    assert torch.equal(torch.get_rng_state(), state)
    assert count(deployed) == count(objective.student) - unused + count(made.projector) + count(made.classifier)
    deployed(batch_of(2).images).sum().backward()
    assert all(p.grad is not None for p in deployed.parameters() if p.requires_grad)


def test_published_pair_deployed():
    with torch.device("meta"):
        student, teacher = create_model("resnet8x4", 100), create_model("resnet32x4", 100)
        made = SimKDMethod(student, teacher, options(SimKDMethod))
        deployed = assemble(made.deploy(student), student, nn.ModuleDict({"method": made}))
    assert count(deployed) == 1_233_540 - 25_700 + 214_016 + 25_700


def test_the_deployed_network_follows_training_and_leaves_the_student_whole():
    objective, _ = make(SimKDMethod, student="MobileNetV2", image_size=32)
    deployed, batch = objective.deployed(), batch_of(4)
    before = deployed.eval()(batch.images)
    objective.train()
    assert deployed.student.conv1[1].training  # the layers are shared
    optimizer = torch.optim.SGD(objective.trained_parameters(), lr=0.1)
    objective(batch).total.backward()
    optimizer.step()
    assert not torch.allclose(deployed.eval()(batch.images), before)
    assert objective.student(batch.images).shape == (4, CLASSES)
    assert objective.student.classifier[0].out_features == CLASSES


def test_a_deployed_network_is_rebuilt_without_the_teachers_weights(tmp_path):
    """Without the teacher and the method: from what a checkpoint has."""
    objective, made = make(SimKDMethod, teacher="MobileNetV2")
    objective(batch_of(4))
    deployment = objective.deployment()
    saved = {"arch": "resnet8", "num_classes": CLASSES, "model": objective.student.state_dict(),
             "method": made.state_dict(), "deployment": deployment._asdict()}
    student = create_model("resnet8", CLASSES)
    student.load_state_dict(saved["model"])
    images = batch_of(3, seed=1).images
    expected = objective.deployed().eval()(images)
    assert torch.equal(rebuild(deployment, student, saved).eval()(images), expected)
    save_checkpoint(tmp_path / "last.pth", saved)
    assert torch.equal(load_model(tmp_path / "last.pth").eval()(images), expected)


def test_the_deployed_network_can_be_copied_and_exported():
    objective, _ = make(SimKDMethod, student="MobileNetV2")
    deployed, images = objective.deployed().eval(), batch_of(2).images
    with torch.no_grad():
        expected = deployed(images)
        assert torch.equal(deepcopy(deployed)(images), expected)
        torch.testing.assert_close(torch.export.export(deployed, (images,)).module()(images), expected)
    assert not any("classifier" in name for name in deployed.student.state_dict())


def test_the_loss_is_the_mean_square():
    objective, made = make(SimKDMethod)
    batch = batch_of(4)
    seen = watched(made)
    losses = objective(batch)
    assert list(losses.terms) == ["method"]
    assert losses.total.item() == pytest.approx(F.mse_loss(*seen[0]).item())


def test_teachers_and_options_that_cannot_work():
    with pytest.raises(UsageError, match="reads no averaged map"):
        make(SimKDMethod, teacher="torchvision/vgg11", image_size=64)
    with pytest.raises(UsageError, match="--factor 65 leaves nothing of the teacher's 64 channels"):
        make(SimKDMethod, factor=65)
    with pytest.raises(UsageError, match="--beta 0"):
        make(SimKDMethod, beta=0)
