"""Parameters of the published implementations' golden cases."""
import numpy as np
import torch


def load_parameters(module, block, rename=lambda key: key):
    """`module`, filled as the `params` block of a case says; `rename` turns a published key into ours."""
    rs = np.random.RandomState(block["seed"])
    state = module.state_dict()
    for key, shape, rule in block["fill"]:
        if rule == "mem":  # a memory bank
            drawn = (2 * rs.rand(*shape) - 1) / np.sqrt(shape[1] / 3)
        else:
            assert rule in ("w", "gamma")
            drawn = 0.1 * rs.randn(*shape) + (rule == "gamma")
        drawn = torch.from_numpy(drawn.astype(np.float32))
        assert state[rename(key)].shape == drawn.shape
        state[rename(key)] = drawn
    module.load_state_dict(state)
    return module


def gradient_norm(*modules):
    """L2 norm of the gradients of all trained parameters."""
    gradients = [p.grad.flatten() for module in modules for p in module.parameters() if p.grad is not None]
    return torch.cat(gradients).norm().item()
