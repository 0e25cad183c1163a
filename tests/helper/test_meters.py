"""Averages over an epoch, and the loss that is not finite."""
import pytest
import torch

from errors import UsageError
from helper.meters import Meters
from helper.objective import Losses


def losses(logits, **terms):
    terms = {name: torch.tensor(value) for name, value in terms.items()}
    return Losses(sum(terms.values()), terms, logits)


def test_averages_weigh_batches_by_their_size():
    meters = Meters(torch.device("cpu"))
    meters.update(losses(torch.eye(3), ce=1.0, kl=2.0), torch.tensor([0, 1, 0]))  # 2 of 3 right
    meters.update(losses(torch.eye(3)[:1], ce=5.0, kl=6.0), torch.tensor([0]))  # 1 of 1 right
    averages = meters.read()
    assert averages == pytest.approx({"loss": 5.0, "acc": 75.0, "loss_ce": 2.0, "loss_kl": 3.0})


def test_state_goes_on_where_it_was():
    one, two = Meters(torch.device("cpu")), Meters(torch.device("cpu"))
    for meters in (one, two):
        meters.update(losses(torch.eye(2), ce=1.0), torch.tensor([0, 1]))
    restored = Meters(torch.device("cpu"))
    restored.load_state_dict(two.state_dict())
    for meters in (one, restored):
        meters.update(losses(torch.eye(2), ce=float("1.5")), torch.tensor([1, 1]))
    assert one.read() == restored.read()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_term_that_is_not_finite_is_named(value):
    meters = Meters(torch.device("cpu"))
    target = torch.tensor([0, 1])
    meters.update(losses(torch.eye(2), ce=1.0, kl=1.0), target)
    meters.update(losses(torch.eye(2), ce=1.0, kl=value), target)
    meters.update(losses(torch.eye(2), ce=value, kl=value), target)
    with pytest.raises(UsageError, match=r"'kl' is not finite at step 2"):
        meters.read()
