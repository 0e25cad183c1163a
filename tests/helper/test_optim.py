"""Schedules of the learning rate against PyTorch's, and the moving average of the weights."""
from types import SimpleNamespace

import pytest
import torch
from torch.optim import lr_scheduler

from cli.options import teacher_options
from dataset import make_loader
from distiller_zoo import make_terms
from helper.device import choose_device
from helper.meters import Meters
from helper.objective import Objective
from helper.optim import Learned, Schedule, make_average, make_optimizer
from helper.state import Training, load_training
from models import create_model
from models.checkpoint import save_checkpoint
from tasks import CLASSIFICATION as task
from tests.conftest import build_tiny
from tests.test_resume import assert_equal

STEPS = 4  # of an epoch
DECAY = 0.9


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


@pytest.fixture
def begin(tmp_path):
    """A function from a seed of the weights to (Objective, Training), with a moving average of the weights."""
    data, device = build_tiny("data", 8, tmp_path), choose_device("cpu", "fp32")
    opt = teacher_options(["--learning_rate", "0.05", "--epochs", "3", "--ema_decay", str(DECAY), "--lr_schedule",
                           "cosine", "--lr_warmup_epochs", "1"])

    def of(seed):
        torch.manual_seed(seed)
        loader = make_loader(data, data.train, kind="device", batch_size=32, train=True, device="cpu")
        objective = Objective(create_model("resnet8", 10), device, make_terms(task.criterion)).train()
        optimizer = make_optimizer(objective.trained_parameters(), opt)
        scaler, meters = torch.amp.GradScaler("cpu", enabled=False), Meters("cpu", task)
        schedule = Schedule(opt, len(loader))
        return objective, Training(objective, optimizer, schedule, scaler, loader, meters, opt.ema_decay)

    return of


def train(objective, training, steps):
    """Yields after each step; an epoch has five."""
    batches = iter(training.loader)
    for _ in range(steps):
        training.set_learning_rate()
        losses = objective(batch := next(batches))
        training.step(losses.total)
        training.average()
        training.meters.update(losses, batch)
        yield


def test_what_is_kept_is_the_average_of_weights_and_statistics(begin):
    objective, training = begin(0)
    expected = None
    for _ in train(objective, training, 4):
        live = {key: x.clone() for key, x in objective.student.state_dict().items() if x.is_floating_point()}
        expected = live if expected is None else {key: DECAY * expected[key] + (1 - DECAY) * live[key] for key in live}
    kept = training.result()["model"]
    for key, average in expected.items():
        torch.testing.assert_close(kept[key], average, msg=key)
    assert any("running_mean" in key for key in expected)
    assert not torch.allclose(kept["fc.weight"], objective.student.fc.weight)
    assert torch.equal(objective.deployed(training.result_of).fc.weight, kept["fc.weight"])
    assert objective.deployed() is objective.student  # which goes on learning by itself
    assert not any(p is q for p in training.result_of.parameters() for q in objective.student.parameters())


@pytest.mark.parametrize("stop", [1, 3])
def test_the_average_goes_on_with_the_same_bits(begin, stop, tmp_path):
    """In mid-epoch, from a file, in new objects of other weights."""
    through = begin(0)
    list(train(*through, 5))
    first = begin(0)
    running = train(*first, 5)
    for _ in range(stop):
        next(running)
    save_checkpoint(tmp_path / "last.pth", first[1].state_dict())
    resumed = begin(1)
    load_training(tmp_path / "last.pth", resumed[1])
    list(train(*resumed, 5 - stop))
    assert_equal(through[1].state_dict(), resumed[1].state_dict(), "state")
    assert resumed[1].rest()["averaged"] == 5


def test_counters_are_kept_and_not_averaged():
    """As the labels of CRD's queue, and the images that reviewkd has seen."""
    network = torch.nn.Linear(2, 1)
    network.register_buffer("labels", torch.zeros(3, dtype=torch.int64))
    objective = SimpleNamespace(learned=lambda: Learned(network))
    training = Training(objective, None, None, None, None, None, ema_decay=0.9)
    for step in range(1, 4):
        network.labels.fill_(7 * step)
        training.average()
    assert training.result_of.student.labels.tolist() == [21, 21, 21]
