"""Schedules of the learning rate against PyTorch's, and the moving average of the weights."""
import pytest
import torch
from torch.optim import lr_scheduler

from cli.options import teacher_options
from helper.optim import Learned, Schedule, make_average, make_optimizer

STEPS = 4  # of an epoch


def torchs(make, epochs, steps=1):
    """Learning rates of a scheduler of PyTorch's: of each epoch, or of each of `steps` steps of each."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    scheduler, rates = make(optimizer), []
    for _ in range(epochs * steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_steps_are_pytorchs_to_the_bit():
    opt = teacher_options(["--learning_rate", "0.05"])
    ours = [Schedule(opt, STEPS)(STEPS * epoch) for epoch in range(240)]
    assert ours == torchs(lambda o: lr_scheduler.MultiStepLR(o, [150, 180, 210], gamma=0.1), 240)


@pytest.mark.parametrize(("name", "make"), [
    ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, 10 * STEPS, eta_min=0.001)),
    ("polynomial", lambda o: lr_scheduler.PolynomialLR(o, 10 * STEPS, power=2.0)),
])
def test_by_the_step(name, make):
    minimum = ["--lr_min", "0.001"] if name == "cosine" else []
    opt = teacher_options(["--learning_rate", "0.05", "--epochs", "10", "--lr_schedule", name, *minimum])
    ours = [Schedule(opt, STEPS)(step) for step in range(10 * STEPS)]
    assert ours == pytest.approx(torchs(make, 10, STEPS))


def test_warm_up_rises_linearly_to_the_schedule():
    opt = teacher_options(["--learning_rate", "0.4", "--epochs", "10", "--lr_warmup_epochs", "1.5"])
    schedule = Schedule(opt, STEPS)
    assert [schedule(step) for step in range(8)] == pytest.approx([0.4 * k / 6 for k in range(1, 6)] + [0.4] * 3)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_optimiser_descends(name):
    weight = torch.ones(3, requires_grad=True)
    opt = teacher_options(["--optimizer", name, "--learning_rate", "0.1"])
    optimizer = make_optimizer([weight], opt)
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert (weight < 1).all()


def test_the_average_is_the_formulas():
    network = torch.nn.Linear(2, 1)
    average = make_average(Learned(network), 0.9)
    expected = None
    for step in range(4):
        with torch.no_grad():
            network.weight += step
        average.update_parameters(Learned(network))
        # PyTorch takes the first weights themselves
        expected = network.weight.clone() if expected is None else 0.9 * expected + 0.1 * network.weight
    torch.testing.assert_close(average.module.student.weight, expected)
    assert make_average(Learned(network), 0.0) is None
