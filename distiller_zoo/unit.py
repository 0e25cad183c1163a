"""Division by length that is safe at zero."""
import torch

SHORTEST = 1e-12  # a shorter vector counts as zero: F.normalize's bound


def unit(x, dim):
    """x / ||x||_2 along `dim` (an int, or a tuple of them); a zero vector stays zero and receives no gradient.

    F.normalize has the same values, but hands a zero vector (a dead channel, a black image) 1e12 times the gradient.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm < SHORTEST, torch.inf)
