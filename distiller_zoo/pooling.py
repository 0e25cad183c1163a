"""How two feature maps of unequal size are brought to one size."""
import torch.nn.functional as F


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
