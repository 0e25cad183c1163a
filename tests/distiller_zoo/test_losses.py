"""Every loss: published value, gradient, a perfect match, extreme input, half precision, a constant teacher."""
import pytest
import torch

from distiller_zoo import DistillKL, DistillMSE
from tests.golden import classic, draw_inputs

LOGIT_LOSSES = {"KD": DistillKL(4.0), "KD_simkd": DistillKL(4.0), "KDMSE": DistillMSE()}
each_loss = pytest.mark.parametrize("loss", [DistillKL(4.0), DistillKL(1.0), DistillMSE()], ids=["kl4", "kl1", "mse"])


@pytest.mark.parametrize("key", LOGIT_LOSSES)
@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), [(torch.float32, "", 1e-4), (torch.float64, "_f64", 1e-6)])
def test_published_values(key, dtype, suffix, tolerance):
    for case in classic["losses"][key]["cases"]:
        y_s, y_t = draw_inputs(case, dtype).values()
        loss = (DistillKL(**case["ctor"]) if case["ctor"] else LOGIT_LOSSES[key])(y_s, y_t.detach())
        loss.backward()
        assert loss.shape == ()
        assert loss.item() == pytest.approx(case["out"]["loss" + suffix], rel=tolerance)
        assert y_s.grad.norm().item() == pytest.approx(case["out"]["grad_norm" + suffix]["y_s"], rel=tolerance)


@each_loss
def test_gradient(loss):
    torch.manual_seed(0)
    z_s, z_t = (torch.randn(3, 5, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda z: loss(z, z_t), z_s.requires_grad_())


@each_loss
@pytest.mark.parametrize("batch", [1, 4])
def test_zero_at_a_perfect_match(loss, batch):
    z = torch.randn(batch, 10)
    assert loss(z, z).item() == pytest.approx(0, abs=1e-6)


@each_loss
def test_finite_for_extreme_logits(loss):
    z_s = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    value = loss(z_s, torch.tensor([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]]))
    value.backward()
    assert value.isfinite()
    assert z_s.grad.isfinite().all()


@each_loss
def test_float32_inside_autocast(loss):
    z_s, z_t = torch.randn(2, 8, 10).mul(5).to(torch.bfloat16).unbind()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(z_s, z_t)
    assert value.dtype == torch.float32
    assert value.item() == loss(z_s.float(), z_t.float()).item()
