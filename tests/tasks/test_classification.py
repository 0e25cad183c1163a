"""Scores of a classifier with answers worked out by hand."""
import pytest
import torch

from dataset import Batch
from helper.device import choose_device
from helper.loop import evaluate
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


def test_agreement_with_a_teacher():
    z = torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0], [4.0, 0, 0]])
    loader = [Batch(z[:3], torch.tensor([0, 1, 0]), None), Batch(z[3:], torch.tensor([0]), None)]
    scores = evaluate(torch.nn.Identity(), loader, choose_device("cpu", "fp32"), task, teacher=torch.nn.Softmax(dim=1),
                      detailed=True)
    assert (scores["acc"], scores["teacher_acc"], scores["agreement"]) == (75, 75, 100)
    assert scores["teacher_kl"] > 0
    assert scores["images"] == 4
    assert "same class as the teacher 100.00%" in task.describe(scores)
