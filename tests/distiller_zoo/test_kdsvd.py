"""KDSVD's singular vectors: the library's up to sign, and a gradient that is finite where the library's is not."""
import pytest
import torch

from distiller_zoo.kdsvd import KDSVD, leading_vectors


def svd_vectors(x, k):
    v = torch.linalg.svd(x, full_matrices=False).Vh.mT[:, :, :k]
    return v * torch.where(v.sum(1, keepdim=True) < 0, -1.0, 1.0)


@pytest.mark.parametrize("shape", [(3, 9, 4), (3, 4, 9), (3, 5, 5), (3, 1, 4), (3, 4, 1)])
def test_vectors_and_gradient_are_those_of_the_svd(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    v, singular = leading_vectors(x, 3)
    expected = svd_vectors(x, 3)
    torch.testing.assert_close(v, expected)
    values = torch.linalg.svdvals(x)
    torch.testing.assert_close(singular, values[:, :3] / values.norm(dim=1, keepdim=True))
    weights = torch.randn(v.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((v * weights).sum(), x)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("sign", [1, -1])
def test_value_does_not_depend_on_the_librarys_signs(monkeypatch, sign):
    eigh = torch.linalg.eigh
    maps_s, maps_t = ([torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
                      for seeds in ((0, 1), (2, 3)))
    expected = KDSVD()(maps_s, maps_t).item()
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: (eigh(a)[0], sign * eigh(a)[1]))
    assert KDSVD()(maps_s, maps_t).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("f", [torch.eye(4).reshape(1, 4, 2, 2), torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)],
                         ids=["equal singular values", "one singular value", "none"])
def test_gradient_is_finite_for_degenerate_maps(f):
    f_s = f.clone().requires_grad_()
    other = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    loss = KDSVD()([f_s, other], [other, other.flip(1)])
    loss.backward()
    assert loss.isfinite()
    assert f_s.grad.isfinite().all()


def test_a_network_that_diverged_gives_a_loss_that_is_not_finite():
    """The training loop then names the term and stops; the eigensolver alone would raise."""
    maps = [torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)]
    assert not KDSVD()([maps[0] * torch.nan, maps[1]], maps).isfinite()
