"""Averages over an epoch, and the loss that is not finite."""
import pytest
import torch

from dataset import Batch
from errors import UsageError
from helper.meters import Meters
from helper.objective import Losses
from tasks import CLASSIFICATION


def batch(target):
    return Batch(None, target, None)


def losses(logits, **terms):
    terms = {name: torch.tensor(value) for name, value in terms.items()}
    return Losses(sum(terms.values()), terms, logits)


def test_averages_weigh_batches_by_their_size():
    meters = Meters(torch.device("cpu"), CLASSIFICATION)
    meters.update(losses(torch.eye(3), ce=1.0, kl=2.0), batch(torch.tensor([0, 1, 0])))  # 2 of 3 right
    meters.update(losses(torch.eye(3)[:1], ce=5.0, kl=6.0), batch(torch.tensor([0])))  # 1 of 1 right
    averages = meters.read()
    assert averages == pytest.approx({"loss": 5.0, "acc": 75.0, "loss_ce": 2.0, "loss_kl": 3.0})


def test_state_goes_on_where_it_was():
    one, two = Meters(torch.device("cpu"), CLASSIFICATION), Meters(torch.device("cpu"), CLASSIFICATION)
    for meters in (one, two):
        meters.update(losses(torch.eye(2), ce=1.0), batch(torch.tensor([0, 1])))
    restored = Meters(torch.device("cpu"), CLASSIFICATION)
    restored.load_state_dict(two.state_dict())
    for meters in (one, restored):
        meters.update(losses(torch.eye(2), ce=float("1.5")), batch(torch.tensor([1, 1])))
    assert one.read() == restored.read()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_term_that_is_not_finite_is_named(value):
    meters = Meters(torch.device("cpu"), CLASSIFICATION)
    target = torch.tensor([0, 1])
    meters.update(losses(torch.eye(2), ce=1.0, kl=1.0), batch(target))
    meters.update(losses(torch.eye(2), ce=1.0, kl=value), batch(target))
    meters.update(losses(torch.eye(2), ce=value, kl=value), batch(target))
    with pytest.raises(UsageError, match=r"'kl' is not finite at step 2"):
        meters.read()


def test_terms_that_come_and_go_are_refused():
    meters = Meters(torch.device("cpu"), CLASSIFICATION)
    meters.update(losses(torch.eye(2), ce=1.0), batch(torch.tensor([0, 1])))
    with pytest.raises(UsageError, match=r"terms \['ce', 'kl'\] at step 2, and had \['ce'\]"):
        meters.update(losses(torch.eye(2), ce=1.0, kl=1.0), batch(torch.tensor([0, 1])))
