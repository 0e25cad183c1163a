"""SemCKD: its attention, short and too long batches."""
import pytest
import torch

from distiller_zoo.semckd import SemCKD, SemCKDMethod
from errors import UsageError
from tests.distiller_zoo.pairs import make
from tests.distiller_zoo.published import load_parameters
from tests.distiller_zoo.test_feature_losses import semckd_key
from tests.golden import classic, draw_inputs

CASE = classic["losses"]["SemCKD"]["cases"][0]


def published():
    """(loss with the golden case's parameters, the student's maps, the teacher's)."""
    maps = list(draw_inputs(CASE).values())
    loss = SemCKD([f.shape for f in maps[:2]], [f.shape for f in maps[2:]], batch_size=8)
    return load_parameters(loss, CASE["params"][0], semckd_key), maps[:2], maps[2:]


def test_published_attention():
    loss, maps_s, maps_t = published()
    attention = loss.attention(maps_s, maps_t)
    assert attention.shape == (8, 2, 2)
    torch.testing.assert_close(attention.sum(2), torch.ones(8, 2))
    torch.testing.assert_close(attention.mean(0), torch.tensor(CASE["out"]["att_mean_over_batch"]))


@pytest.mark.parametrize("samples", [1, 3, 7])
def test_a_short_batch_reads_as_one_filled_up_with_empty_samples(samples):
    loss, maps_s, maps_t = published()
    short = [[f[:samples] for f in maps] for maps in (maps_s, maps_t)]
    filled = [[torch.cat([f[:samples], torch.zeros_like(f[samples:])]) for f in maps] for maps in (maps_s, maps_t)]
    torch.testing.assert_close(loss.attention(*short), loss.attention(*filled)[:samples])
    value = loss(*short)
    value.backward()
    assert value.isfinite()
    assert all(f.grad[:samples].abs().sum() > 0 for f in maps_s)
    assert all(f.grad[samples:].abs().sum() == 0 for f in maps_s)
    assert all(p.grad is not None for p in loss.parameters())


def test_soft_flattens_the_attention():
    _, maps_s, maps_t = published()
    shapes = [f.shape for f in maps_s], [f.shape for f in maps_t]
    torch.manual_seed(0)
    sharp = SemCKD(*shapes, 8, soft=0.1)
    flat = SemCKD(*shapes, 8, soft=1e6)
    assert sharp.attention(maps_s, maps_t).std() > 0.05
    torch.testing.assert_close(flat.attention(maps_s, maps_t), torch.full((8, 2, 2), 0.5))


def test_no_parameter_is_dead():
    """The published one has 15,648 that nothing uses."""
    _, made = make(SemCKDMethod, teacher="resnet32x4", student="resnet8x4", batch_size=64)
    assert sum(p.numel() for p in made.parameters()) == 10_249_280 - 15_648


def test_batches_that_cannot_work():
    loss, maps_s, maps_t = published()
    with pytest.raises(UsageError, match="a batch of 16, but its attention was built for 8: use --batch_size 16"):
        loss([torch.cat([f, f]) for f in maps_s], [torch.cat([f, f]) for f in maps_t])
    with pytest.raises(UsageError, match="--batch_size 3 is too small"):
        make(SemCKDMethod, batch_size=3)
