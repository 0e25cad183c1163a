"""CRD: published values, what is drawn, banks, the queue."""
import numpy as np
import pytest
import torch

from crd import CRDLoss, CRDQueueLoss, NegativeSampler
from crd.criterion import _nce
from crd.memory import distinct_by_bytes, distinct_by_keys
from tests.distiller_zoo.published import gradient_norm, load_parameters
from tests.golden import classic, draw_inputs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_published_values_of_two_steps(dtype, tolerance):
    """Loss, gradients, normalisers and banks of two calls in a row; the second sees the banks that the first left."""
    for case in classic["losses"]["CRD"]["cases"]:
        published = case["out"] if dtype == torch.float32 else case["out"]["f64"]
        loss = load_parameters(CRDLoss(**case["ctor"]), case["params"][0]).to(dtype)
        inputs = draw_inputs(case, dtype)
        for step in ("1", "2"):
            f_s, f_t, index, contrast = (inputs[name + step] for name in ("f_s", "f_t", "idx", "cidx"))
            loss.zero_grad()
            value = loss(f_s, f_t, index, contrast)
            value.backward()
            assert value.shape == ()
            assert value.item() == pytest.approx(published["loss" + step], rel=tolerance)
            assert f_s.grad.norm().item() == pytest.approx(published["grad_norm_f_s" + step], rel=tolerance)
            assert gradient_norm(loss) == pytest.approx(published["param_grad_norm" + step], rel=tolerance)
            assert f_t.grad is None
            for bank in ("v1", "v2"):
                total = loss.contrast.get_buffer(f"memory_{bank}").sum().item()
                assert total == pytest.approx(published[f"mem_{bank}_sum{step}"], rel=10 * tolerance)
        for i, name in ((2, "Z_v1"), (3, "Z_v2")):
            assert loss.contrast.params[i].item() == pytest.approx(published[name], rel=tolerance)


def test_the_published_state_dict_loads():
    names = ["contrast.memory_v1", "contrast.memory_v2", "contrast.params", "embed_s.linear.bias",
             "embed_s.linear.weight", "embed_t.linear.bias", "embed_t.linear.weight"]
    assert sorted(CRDLoss(4, 4, 10, nce_k=2).state_dict()) == names


def make(n=40, classes=4, k=8, mode="exact"):
    targets = torch.arange(n) % classes
    return targets, NegativeSampler(targets, k, mode)


@pytest.mark.parametrize("mode", ["exact", "relax"])
def test_negatives_are_of_other_classes_and_all_different(mode):
    targets, sampler = make(mode=mode)
    index = torch.arange(40)
    drawn = sampler(index, targets)
    assert drawn.shape == (40, 9)
    assert (targets[drawn[:, 1:]] != targets[:, None]).all()
    assert all(len(set(row.tolist())) == 8 for row in drawn[:, 1:])
    assert (targets[drawn[:, 0]] == targets).all()
    assert torch.equal(drawn[:, 0], index) == (mode == "exact")


def places_by_bytes(sizes, k):
    """Its images as places among those of other classes, whose numbers in a row are `sizes` (B, 1)."""
    N = int(sizes.max()) + 10
    by_class, count = torch.randperm(N), N - sizes[:, 0]
    start = (torch.rand(len(sizes)) * (N - count)).long()
    position = by_class.argsort()[distinct_by_bytes(by_class, start, count, k)]
    inside = (position >= start[:, None]) & (position < (start + count)[:, None])
    assert not inside.any()
    return position - count[:, None] * (position > start[:, None])


@pytest.mark.parametrize("draw", [places_by_bytes,
                                  lambda sizes, k: distinct_by_keys(sizes, int(sizes.max()), k)], ids=["bytes", "keys"])
@pytest.mark.parametrize(("sizes", "k"), [([30, 20], 8), ([30, 20], 20), ([900, 600], 200), ([900, 600], 590)])
def test_every_place_is_as_likely(draw, sizes, k):
    """On the CPU and on a GPU, which draw in different ways; rows have their own sizes."""
    torch.manual_seed(0)
    rows = 1500
    drawn = draw(torch.tensor(sizes)[:, None].repeat(rows, 1), k)
    assert drawn.shape == (2 * rows, k)
    assert (drawn.sort(dim=1).values.diff(dim=1) > 0).all()
    for some, size in ((drawn[::2], sizes[0]), (drawn[1::2], sizes[1])):
        times = torch.bincount(some.flatten(), minlength=size).double()
        expected, p = rows * k / size, k / size
        assert len(times) == size
        if k < size:  # each is binomial; their chi-squared has size - 1 degrees of freedom
            chi2 = float(((times - expected) ** 2).sum() / (expected * (1 - p))) * (size - 1) / size
            assert abs(chi2 - (size - 1)) < 5 * (2 * (size - 1)) ** 0.5
        # two rows share k^2 / size of them: rows are independent of each other, and sets of any make as likely
        shared = (torch.zeros(rows, size).scatter_(1, some, 1).unflatten(0, (-1, 2)).prod(dim=1)).sum(dim=1)
        spread = k * p * (1 - p) * (1 - p) * size / max(size - 1, 1)  # hypergeometric variance
        assert abs(float(shared.mean()) - k * p) <= 5 * (spread / len(shared)) ** 0.5
        assert abs(float(shared.var()) - spread) <= 5 * spread * (2 / len(shared)) ** 0.5 + 1e-9


def test_all_images_of_other_classes_are_drawn():
    targets, sampler = make()
    drawn = torch.cat([sampler(torch.arange(40), targets) for _ in range(20)])
    for label in range(4):
        rows = drawn[(targets == label).repeat(20), 1:]
        assert set(rows.flatten().tolist()) == set((targets != label).nonzero().flatten().tolist())


def test_unequal_classes_and_more_negatives_than_there_are():
    targets = torch.tensor([0] * 7 + [1] * 2 + [2])
    sampler = NegativeSampler(targets, k=20)
    drawn = sampler(torch.arange(10), targets)
    assert (targets[drawn[:, 1:]] != targets[:, None]).all()
    few = NegativeSampler(targets, k=3)
    assert all(len(set(row.tolist())) == 3 for row in few(torch.arange(10), targets)[:, 1:])


def test_each_class_has_its_own_number_of_others():
    targets = torch.tensor([0] * 90 + [1] * 10)
    drawn = NegativeSampler(targets, k=50)(torch.arange(100), targets)[:, 1:]
    assert (targets[drawn] != targets[:, None]).all()
    assert all(len(set(row.tolist())) == 50 for row in drawn[90:])  # of 90
    assert set(drawn[:90].flatten().tolist()) == set(range(90, 100))


def test_draws_follow_pytorchs_generator():
    targets, sampler = make()
    torch.manual_seed(3)
    first = sampler(torch.arange(5), targets[:5])
    assert not torch.equal(first, sampler(torch.arange(5), targets[:5]))
    torch.manual_seed(3)
    assert torch.equal(first, sampler(torch.arange(5), targets[:5]))


def inputs(b=6, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(b, 5, dtype=dtype, requires_grad=True), torch.randn(b, 7, dtype=dtype)


def plain_crd(loss, f_s, f_t, contrast):
    """The published formula, by gathering embeddings and by autograd, for a loss whose Z is set already."""
    v_s, v_t = loss.embed_s(f_s), loss.embed_t(f_t)
    bank, total = loss.contrast, 0
    for v, memory, z in ((v_s, bank.memory_v2, bank.params[2]), (v_t, bank.memory_v1, bank.params[3])):
        o = ((memory[contrast].clone() @ v[:, :, None])[..., 0] / loss.nce_t).exp() / z.clone()
        log_p = (o[:, :1] / (o[:, :1] + loss.q + 1e-7)).log(), (loss.q / (o[:, 1:] + loss.q + 1e-7)).log()
        total = total - torch.cat(log_p, dim=1).sum() / len(v)
    return total


def test_gradients_against_the_plain_formula():
    f_s, f_t = inputs()
    loss = CRDLoss(5, 7, 30, feat_dim=4, nce_k=6).double()
    contrast = torch.randint(30, (6, 7))
    loss(f_s, f_t, contrast[:, 0], contrast)  # sets Z
    wanted = [f_s, *loss.parameters()]
    plain = plain_crd(loss, f_s, f_t, contrast)
    expected = torch.autograd.grad(plain, wanted)
    value = loss(f_s, f_t, contrast[:, 0], contrast)
    torch.testing.assert_close(value, plain)
    for got, want in zip(torch.autograd.grad(value, wanted), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_gradient_of_the_loss_of_log_odds():
    a = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(_nce(a, 0.3)[0], a)
    torch.testing.assert_close(slope, _nce(a, 0.3)[1])


@pytest.mark.parametrize("queue", [False, True])
@pytest.mark.parametrize(("b", "scale"), [(1, 1.0), (4, 0.0), (4, 1e4)])
def test_finite(queue, b, scale):
    f_s, f_t = inputs(b, torch.float32)
    loss = CRDQueueLoss(5, 7, 30, feat_dim=4, nce_k=6) if queue else CRDLoss(5, 7, 30, feat_dim=4, nce_k=6)
    for _ in range(3):
        value = loss(f_s * scale, f_t * scale, *([torch.arange(b) % 2] if queue else
                                                 [torch.arange(b), torch.randint(30, (b, 7))]))
        value.backward()
    assert value.isfinite() and value.shape == ()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_float32_inside_autocast():
    f_s, f_t = inputs(4, torch.float32)
    loss = CRDLoss(5, 7, 30, feat_dim=4, nce_k=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(f_s.bfloat16(), f_t.bfloat16(), torch.arange(4), torch.randint(30, (4, 7))).dtype == torch.float32


def test_the_queue_is_first_in_first_out_and_ignores_the_own_class():
    loss = CRDQueueLoss(5, 7, 30, feat_dim=4, nce_k=6)
    f_s, f_t = inputs(4, torch.float32)
    loss(f_s, f_t, torch.tensor([0, 1, 2, 3]))
    loss(f_s, f_t, torch.tensor([4, 5, 6, 7]))
    assert loss.queue.labels.tolist() == [6, 7, 2, 3, 4, 5]
    torch.testing.assert_close(loss.queue.queue_t[4], loss.embed_t(f_t)[0])
    all_own = CRDQueueLoss(5, 7, 30, feat_dim=4, nce_k=6)
    all_own.queue.labels.fill_(1)
    value = all_own(f_s, f_t, torch.ones(4, dtype=torch.int64))
    assert value.isfinite()


def test_the_queue_grows_alike_for_any_batch():
    targets = torch.arange(10)
    f_s, f_t = inputs(10, torch.float32)
    loss = CRDQueueLoss(5, 7, 30, feat_dim=4, nce_k=6)
    loss(f_s, f_t, targets)
    assert sorted(loss.queue.labels.tolist()) == [4, 5, 6, 7, 8, 9]
    assert np.isfinite(loss.queue.queue_s.numpy()).all()
