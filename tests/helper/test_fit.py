"""The learning rate by epoch, and the accuracies that evaluation reports, against published values."""
from types import SimpleNamespace

import pytest
import torch

from cli.options import teacher_options
from dataset import Batch, make_loader
from helper.device import choose_device
from helper.loop import evaluate
from helper.objective import Objective
from helper.optim import Schedule, make_optimizer
from tasks import CLASSIFICATION as task
from tests.conftest import build_tiny
from tests.golden import classic, draw_inputs


def test_learning_rate_by_epoch():
    schedule = Schedule(teacher_options(["--learning_rate", "0.05"]), steps_per_epoch=3)
    rates = {str(epoch): schedule(3 * epoch - 1) for epoch in range(1, 241)}  # of the last step
    assert rates == {str(epoch): schedule(3 * epoch - 3) for epoch in range(1, 241)}  # and of the first
    published = classic["misc"]["lr_by_epoch"]
    assert {epoch: rates[epoch] for epoch in published} == pytest.approx(published)


@pytest.mark.parametrize("case", classic["misc"]["accuracy_top1_top5"], ids=lambda case: str(case["seed"]))
def test_accuracy(case):
    logits, target = draw_inputs(case).values()
    parts = [slice(0, 5), slice(5, None)]  # unequal batches
    loader = [Batch(logits.detach()[part], target[part], None) for part in parts]
    scores = evaluate(torch.nn.Identity(), loader, choose_device("cpu", "fp32"), task)
    assert [scores["acc"], scores["acc_top5"]] == pytest.approx(case["out"])
    assert scores["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, target).item())


class Greedy(torch.nn.Module):
    """Finds no memory for more than 7 images at once."""

    def forward(self, images):
        if len(images) > 7:
            raise torch.OutOfMemoryError
        return images.flatten(1)[:, :10]


@pytest.mark.parametrize("kind", ["device", "torch"])
def test_a_batch_that_does_not_fit_is_halved(kind, tmp_path):
    data, device = build_tiny("data", None, tmp_path), choose_device("cpu", "fp32")
    loader, small = (make_loader(data, data.test, kind=kind, batch_size=size, train=False, device=device.device)
                     for size in (50, 5))
    scores = evaluate(Greedy(), loader, device, task)
    assert loader.batch_size == 6
    assert scores == pytest.approx(evaluate(Greedy(), small, device, task))
    loader.batch_size = 1
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Hopeless(), loader, device, task)


class Hopeless(torch.nn.Module):
    def forward(self, x):
        raise torch.OutOfMemoryError


def test_frozen_parameters_stay_out_of_the_optimiser():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False))
    opt = SimpleNamespace(optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.1, nesterov=0)
    objective = Objective(network, choose_device("cpu", "fp32"), [])
    optimizer = make_optimizer(objective.trained_parameters(), opt)
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [(2, 2), (2,)]
