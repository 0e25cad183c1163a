"""Scores of a classifier with answers worked out by hand."""
import pytest
import torch
import torch.nn.functional as F

from dataset import Batch
from helper.device import choose_device
from helper.loop import evaluate
from models.features import Features
from tasks import CLASSIFICATION as task
from tasks.classification import calibration_error


def test_calibration_error():
    probability = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    target = torch.tensor([0, 1, 0, 0])
    # bins of the top probability: {0.9, 0.9}: |1/2 - 0.9| * 2/4, {0.6}: |1 - 0.6| / 4, {0.8}: |0 - 0.8| / 4
    assert calibration_error(probability.log(), target).item() == pytest.approx(0.2 + 0.1 + 0.2)


def test_calibration_of_certainty():
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert calibration_error(logits, torch.tensor([0, 1])).item() == pytest.approx(0, abs=1e-6)


def test_scores_by_hand():
    """Whatever batches the images come in; top-5 of six classes."""
    z = torch.tensor([[3.0, 0, 0, 0, 0, -9], [0, 3.0, 0, 0, 0, -9], [1.0, 1, 1, 1, 1, -9]])
    target = torch.tensor([0, 0, 5])
    scorer = task.scorer()
    scorer.update(z[:2], Batch(None, target[:2], None))
    scorer.update(z[2:], Batch(None, target[2:], None))
    scores = scorer.compute()
    assert scores == pytest.approx({"loss": F.cross_entropy(z, target).item(), "acc": 100 / 3, "acc_top5": 200 / 3})


def test_several_classifiers():
    z, target = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 2])
    scorer = task.scorer()
    scorer.update({"head1": z, "head3": -z}, Batch(None, target, None))
    scores = scorer.compute()
    assert scores["head1_acc"] == 75
    assert scores["head3_acc"] == pytest.approx(100 * (-z).argmax(1).eq(target).double().mean().item())
    assert scores["acc"] == pytest.approx((scores["head1_acc"] + scores["head3_acc"]) / 2)
    assert scores["loss"] == pytest.approx((scores["head1_loss"] + scores["head3_loss"]) / 2)
    assert scores["head1_loss"] == pytest.approx(F.cross_entropy(z, target).item())
    row = task.scored_row("val", scores)
    assert task.parts(row, "val") == ["head1", "head3"]
    assert task.part("val", "head1") == ("val_head1_loss", "val_head1_acc")
    assert set(row) == {"val_loss", "val_acc", "val_acc_top5", "val_head1_loss", "val_head1_acc", "val_head3_loss",
                        "val_head3_acc"}


def test_what_is_best():
    """By held-out images where there are any; the first of two that are alike."""
    tested = [{"epoch": epoch, "test_acc": acc} for epoch, acc in enumerate((50, 70, 70, 60), 1)]
    assert task.best(tested)["epoch"] == 2
    assert [task.is_better(row, tested[1]) for row in tested] == [False] * 4
    assert task.is_better({"test_acc": 71}, tested[1])
    held_out = [row | {"val_acc": acc} for row, acc in zip(tested, (10, 20, 30, 5), strict=True)]
    assert task.best(held_out)["epoch"] == 3
    assert task.value(task.best(held_out)) == 70
    assert task.value(held_out[0], "val") == 10


def test_soft_targets_and_hits():
    z, target = torch.tensor([[2.0, 0, 0], [0, 2.0, 0]]), torch.tensor([0, 2])
    features = Features([], z)
    assert task.criterion(features, None, Batch(None, target, None)).item() == F.cross_entropy(z, target).item()
    soft = torch.tensor([[0.5, 0.5, 0], [0, 0, 1]])
    found = task.criterion(features, None, Batch(None, target, None, soft))
    assert found.item() == pytest.approx(-(soft * z.log_softmax(1)).sum(1).mean().item())
    assert task.hits(z, Batch(None, target, None)).item() == 1


def test_agreement_with_a_teacher():
    z = torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0], [4.0, 0, 0]])
    loader = [Batch(z[:3], torch.tensor([0, 1, 0]), None), Batch(z[3:], torch.tensor([0]), None)]
    scores = evaluate(torch.nn.Identity(), loader, choose_device("cpu", "fp32"), task, teacher=torch.nn.Softmax(dim=1),
                      detailed=True)
    assert (scores["acc"], scores["teacher_acc"], scores["agreement"]) == (75, 75, 100)
    assert scores["teacher_kl"] > 0
    assert scores["images"] == 4
    assert "same class as the teacher 100.00%" in task.describe(scores)
