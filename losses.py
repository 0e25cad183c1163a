"""What every loss of the project stands on: float32 inside autocast, safe division by length, maps of one size."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORTEST = 1e-12  # a shorter vector counts as zero: F.normalize's bound


class Loss(nn.Module):
    """A loss computed in float32, whatever autocast or half-precision features surround it.

    Sums of squares over a map overflow float16 and lose digits in bfloat16, so tensors (also in lists) are cast up and
    autocast is switched off. float64 stays float64: gradient checks rely on it.
    """

    def __call__(self, *inputs, **named):
        inputs, named = _float32(inputs), _float32(named)
        device = next(_tensors([*inputs, *named.values()]), torch.empty(0)).device.type
        with torch.autocast(device, enabled=False):
            return super().__call__(*inputs, **named)


def _float32(x):
    if isinstance(x, Tensor):
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if isinstance(x, dict):
        return {key: _float32(item) for key, item in x.items()}
    return type(x)(_float32(item) for item in x) if isinstance(x, (list, tuple)) else x


def _tensors(x):
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for item in x:
            yield from _tensors(item)


def unit(x, dim):
    """x / ||x||_2 along `dim` (an int, or a tuple of them); a zero vector stays zero and receives no gradient.

    F.normalize has the same values, but hands a zero vector (a dead channel, a black image) 1e12 times the gradient.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm < SHORTEST, torch.inf)


def pool_to_match(f_s, f_t):
    """The two maps with the larger, by height, average-pooled to the other's size; equal sizes pass unchanged.

    Shapes: f_s (B, C_s, H_s, W_s), f_t (B, C_t, H_t, W_t) -> the same two with one (H, W).
    """
    s_size, t_size = tuple(f_s.shape[-2:]), tuple(f_t.shape[-2:])
    if s_size == t_size:
        return f_s, f_t
    if s_size > t_size:  # height decides, as published; width only where heights are equal
        return _pool(f_s, t_size), f_t
    return f_s, _pool(f_t, s_size)


def _pool(f, size):
    (h, w), (h_out, w_out) = f.shape[-2:], size
    if h % h_out == 0 and w % w_out == 0:  # the same averages, and --deterministic refuses the adaptive ones' gradient
        return F.avg_pool2d(f, (h // h_out, w // w_out))
    return F.adaptive_avg_pool2d(f, size)
