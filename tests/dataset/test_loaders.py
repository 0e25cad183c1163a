"""Both loaders: the same data, the same order, and the same bits after an interruption."""
import copy
import itertools

import pytest
import torch

from dataset import DeviceLoader, dataset_dict, device_loader, make_loader
from dataset.torch_loader import TorchLoader
from errors import UsageError

KINDS = ["device", "torch"]


@pytest.fixture
def data(load, tree):
    return load(tree)


@pytest.fixture
def loader(data):
    """loader(kind, ...) -> a loader of the 18 training images in batches of 5: three full ones and one of 3."""

    def make(kind, train=True, **options):
        return make_loader(data, data.train, kind=kind, train=train, **{"batch_size": 5, "device": "cpu", **options})

    return make


def _same(a, b):
    tensors = ([tensor for batch in batches for tensor in batch[:3]] for batches in (a, b))
    return len(a) == len(b) and all(map(torch.equal, *tensors))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_batch_is(loader, data, kind, train, channels_last):
    batches = list(loader(kind, train, channels_last=channels_last))
    assert [len(batch.index) for batch in batches] == [5, 5, 5, 3]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for batch in batches:
        assert batch.images.dtype == torch.float32 and batch.images.shape[1:] == (3, 16, 16)
        assert batch.images.is_contiguous(memory_format=memory_format)
        assert batch.target.dtype == batch.index.dtype == torch.int64
        assert torch.equal(batch.target, data.train.targets[batch.index])
    index = torch.cat([batch.index for batch in batches])
    assert torch.equal(index.sort().values, torch.arange(18))
    assert torch.equal(index, torch.arange(18)) != train


@pytest.mark.parametrize("kind", KINDS)
def test_drop_last(loader, kind):
    dropping = loader(kind, drop_last=True)
    assert len(dropping) == 3 and [len(batch.index) for batch in dropping] == [5, 5, 5]
    assert len(loader(kind, batch_size=6, drop_last=True)) == len(loader(kind, batch_size=6)) == 3


def test_the_loaders_agree_without_augmentation(loader, data):
    for ours, theirs in zip(loader("device", False), loader("torch", False), strict=True):
        assert (ours.images - theirs.images).abs().max() < 1e-6
        assert torch.equal(ours.target, theirs.target) and torch.equal(ours.index, theirs.index)
        mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
        expected = (data.train.array()[ours.index].permute(0, 3, 1, 2) / 255 - mean) / std
        assert (ours.images - expected).abs().max() < 1e-6


def test_the_loaders_agree_on_the_order(loader):
    device, workers = loader("device"), loader("torch")
    for _ in range(3):
        orders = [torch.cat([batch.index for batch in each]) for each in (device, workers)]
        assert torch.equal(*orders)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_epochs_differ(loader, kind):
    def order(batches):
        return [batch.index.tolist() for batch in batches]

    one = loader(kind, seed=1)
    first, second = list(one), list(one)
    assert order(first) != order(second)
    assert order(list(loader(kind, seed=2))) not in (order(first), order(second))
    assert _same(first, list(loader(kind, seed=1)))
    assert one.epoch == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_augmented_anew_in_each_epoch(loader, kind):
    whole = loader(kind, batch_size=18)
    shown = []
    for _ in range(4):
        batch = next(iter(whole))
        shown.append(batch.images[batch.index.argsort()])
        whole.load_state_dict({"epoch": whole.epoch + 1, "step": 0})
    different = [not torch.equal(a[i], b[i]) for a, b in itertools.pairwise(shown) for i in range(18)]
    assert sum(different) > 0.9 * len(different)  # 1 in 50 is the same crop and flip by chance


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_resume_at_every_step(loader, kind, train):
    straight = loader(kind, train)
    reference, states = [], [straight.state_dict()]
    for _ in range(2):
        for batch in straight:
            reference.append(batch)
            states.append(straight.state_dict())  # as a run interrupted here would save it
        states.append(straight.state_dict())  # after the loop
    assert states[0] == {"epoch": 0, "step": 0} and states[4] == {"epoch": 0, "step": 4}
    assert states[5] == {"epoch": 1, "step": 0} and states[-1] == {"epoch": 2, "step": 0}
    assert all(type(value) is int for state in states for value in state.values())
    for state in states:
        resumed = loader(kind, train)
        resumed.load_state_dict(copy.deepcopy(state))
        assert resumed.state_dict() == state
        rest = []
        while resumed.epoch < 2:
            rest.extend(resumed)
        done = state["epoch"] * 4 + state["step"]
        assert _same(rest, reference[done:])
        assert resumed.state_dict() == {"epoch": 2, "step": 0}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("batches", [2, 3, 9])
def test_several_batches_prepared_at_a_time_are_the_same(loader, data, monkeypatch, batches, train):
    """As on a GPU."""
    reference = list(loader("device", train))
    monkeypatch.setitem(device_loader.PIXELS_AT_ONCE, "cpu", batches * 5 * data.image_size**2)
    for start in range(5):
        grouped = loader("device", train)
        grouped.load_state_dict({"epoch": 0, "step": start})
        for step, batch in enumerate(grouped, start + 1):
            assert _same([batch], reference[step - 1:step])
            assert grouped.state_dict() == {"epoch": 0, "step": step}
    shorter = list(loader("device", train, drop_last=True))
    assert _same(shorter, reference[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_epoch_yields_nothing_and_moves_on(loader, kind):
    resumed = loader(kind)
    resumed.load_state_dict({"epoch": 7, "step": 4})
    assert list(resumed) == [] and resumed.state_dict() == {"epoch": 8, "step": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_left_early_starts_its_epoch_over(loader, kind):
    each = loader(kind)
    for batch in each:
        first = batch
        break
    assert each.state_dict() == {"epoch": 0, "step": 1}
    again = list(each)
    assert len(again) == 4 and _same([first], again[:1])


def test_a_state_of_another_run_is_refused(loader):
    with pytest.raises(UsageError, match="batch 9 of an epoch of 4"):
        loader("device").load_state_dict({"epoch": 0, "step": 9})


def test_workers_change_nothing(loader):
    """Over two epochs, so that workers that stay alive must learn of the new one, and after a break and a resume."""
    def run(num_workers):
        each = loader("torch", num_workers=num_workers)
        batches = list(each) + list(each)
        next(iter(each))
        each.load_state_dict({"epoch": 2, "step": 2})
        return batches + list(each)

    assert _same(run(0), run(2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pytorch_s_generator_is_left_alone(loader, num_workers):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for kind in KINDS:
        list(loader(kind, num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)  # and it does not matter
    other = list(loader("torch"))
    torch.manual_seed(7)
    assert _same(other, list(loader("torch")))


@pytest.mark.parametrize("kind", KINDS)
def test_reflect_shows_no_black_border(data, kind):
    light = copy.copy(data)
    light.mean, light.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    black = {}
    for mode in ("constant", "reflect"):
        each = make_loader(light, data.train, kind=kind, batch_size=18, train=True, device="cpu", padding_mode=mode)
        images = next(iter(each)).images
        black[mode] = (images == 0).all(1).all(2).any(1).sum()  # images with a black row
    assert black["constant"] > 5 and black["reflect"] == 0


def test_kinds(loader, data, monkeypatch):
    assert isinstance(loader("auto"), DeviceLoader) and isinstance(loader("torch"), TorchLoader)
    monkeypatch.setattr("dataset.AUTO_BYTES", 18 * 16 * 16 * 3)
    assert isinstance(loader("auto"), TorchLoader)
    monkeypatch.setattr("dataset.DEVICE_BYTES", 1000)
    with pytest.raises(UsageError, match="use the torch loader"):
        loader("device")
    with pytest.raises(UsageError, match="unknown loader 'devise': did you mean device"):
        loader("devise")
    with pytest.raises(UsageError, match="padding mode 'edge'"):
        loader("torch", padding_mode="edge")
    for options in ({"batch_size": 0}, {"batch_size": 19, "drop_last": True}):
        with pytest.raises(UsageError, match="gives no batch of the 18 images"):
            loader("torch", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_digits_train(digits, kind):
    """The data set every quickstart begins with, through both loaders."""
    assert "digits" in dataset_dict
    batch = next(iter(make_loader(digits, digits.test, kind=kind, batch_size=360, train=False, device="cpu")))
    assert batch.images.shape == (360, 3, 32, 32) and batch.images.std().item() == pytest.approx(1, abs=0.05)


def test_workers_end_with_their_loader(loader):
    """At once: those that are left when the process exits are killed after some seconds, with a traceback."""
    made = loader("torch", num_workers=1)
    for _ in made:
        pass
    (worker,) = made._batched._iterator._workers
    assert worker.is_alive()
    del made, _
    worker.join(timeout=5)
    assert not worker.is_alive()
