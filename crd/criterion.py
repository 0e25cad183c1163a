"""Contrastive Representation Distillation. Tian, Krishnan, Isola. ICLR 2020, arXiv 1910.10699.

v = unit(W f) for each network;   o_ik = exp(v_i . M_k / tau) / Z,   M the other network's bank;   q = K / N
L = -1/B * sum_i [ ln(o_i0 / (o_i0 + q + eps)) + sum_k ln(q / (o_ik + q + eps)) ],   for both networks, added up
"""
import math

import torch
from torch import nn

from crd.memory import MemoryBank, MemoryQueue
from losses import Loss, unit

EPS = 1e-7
SCORES_AT_ONCE = 2**22  # entries of (B, N) computed at a time: 16 MB; a batch of 64 reads a bank of 50,000 once


class Embed(nn.Module):
    """A linear layer whose outputs have unit length. Shapes: f (B, ...) of dim_in features -> (B, dim_out)."""

    def __init__(self, dim_in, dim_out):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)

    def forward(self, f):
        return unit(self.linear(f.flatten(1)), dim=1)


class CRDLoss(Loss):
    """CRD with memory banks: contrasts a sample with its own entry in the other network's bank and with K negatives.

    A matrix product gives the scores with all N entries, for a few rows of the batch at a time, and the K + 1 needed
    ones are gathered. This takes 16 MB; gathering K + 1 embeddings per sample takes 537 MB per bank. The values are the
    published ones. The first batch sets the normaliser Z, which then stays constant.

    Args:
        s_dim, t_dim: widths of the embeddings.
        n_data: number of training images, N.
        feat_dim: D, the width of the space in which they are contrasted.
        nce_k: negatives per sample, K.
        nce_t: temperature tau.
        nce_m: momentum of the bank.

    Shapes: f_s (B, s_dim), f_t (B, t_dim), index (B,) positions in the training set, contrast_index (B, K + 1)
    positions with the positive in column 0 -> () loss.
    """

    def __init__(self, s_dim, t_dim, n_data, feat_dim=128, nce_k=16384, nce_t=0.07, nce_m=0.5):
        super().__init__()
        self.embed_s, self.embed_t = Embed(s_dim, feat_dim), Embed(t_dim, feat_dim)
        self.contrast = MemoryBank(n_data, feat_dim, nce_m)
        # K, tau, Z of either network (-1: not set yet), momentum: the published buffer
        self.contrast.register_buffer("params", torch.tensor([nce_k, nce_t, -1, -1, nce_m]))
        self.nce_t, self.q, self.n_data = nce_t, nce_k / n_data, n_data

    def forward(self, f_s, f_t, index, contrast_index):
        bank = self.contrast
        v_s, v_t = self.embed_s(f_s), self.embed_t(f_t.detach())
        loss = 0
        for v, memory, z in ((v_s, bank.memory_v2, bank.params[2]), (v_t, bank.memory_v1, bank.params[3])):
            loss = loss + _Contrast.apply(v, memory, contrast_index, z, self.nce_t, self.q)
        bank.update(v_s.detach(), v_t.detach(), index)
        return loss


class CRDQueueLoss(Loss):
    """CRD with first-in-first-out queues: contrasts a sample with the other network's embedding of it and with the
    newest K entries of the other network's queue.

    Entries of the sample's own class are excluded. The memory does not grow with the data set.

    Args: as CRDLoss, without nce_m.

    Shapes: f_s (B, s_dim), f_t (B, t_dim), target (B,) classes -> () loss.
    """

    def __init__(self, s_dim, t_dim, n_data, feat_dim=128, nce_k=16384, nce_t=0.07):
        super().__init__()
        self.embed_s, self.embed_t = Embed(s_dim, feat_dim), Embed(t_dim, feat_dim)
        self.queue = MemoryQueue(nce_k, feat_dim)
        self.register_buffer("z", torch.tensor([-1.0, -1.0]))  # normalisers, -1: not set yet
        self.nce_t, self.q, self.n_data = nce_t, nce_k / n_data, n_data

    def forward(self, f_s, f_t, target):
        v_s, v_t = self.embed_s(f_s), self.embed_t(f_t.detach())
        own_class = target[:, None] == self.queue.labels  # (B, K)
        loss = 0
        sides = ((v_s, v_t, self.queue.queue_t, self.z[0]), (v_t, v_s, self.queue.queue_s, self.z[1]))
        for v, other, queue, z in sides:
            positive = (v * other.detach()).sum(dim=1, keepdim=True)  # (B, 1)
            negative = v @ queue.clone().T  # (B, K); a copy, because the queue changes before the backward pass
            # exp(-inf) = 0: such an entry adds -ln(q / (q + eps)), about 0, to the loss and has no gradient
            negative = negative.masked_fill(own_class, -torch.inf)
            scores = torch.cat([positive, negative], dim=1) / self.nce_t
            _set_once(z, scores.detach(), self.n_data)
            loss = loss + _nce(scores - z.log(), self.q)[0]
        self.queue.update(v_s.detach(), v_t.detach(), target)
        return loss


class _Contrast(torch.autograd.Function):
    """_nce of v_i . M[index_ik] / tau - ln Z for a constant bank M: (B, D), (N, D), (B, 1 + K), () -> ().

    The forward pass computes the gradient, because the bank is updated before the backward pass. It saves (B, D)
    instead of several (B, N) and (B, K) tensors.
    """

    @staticmethod
    def forward(ctx, v, memory, index, z, nce_t, q):
        B, N = len(v), len(memory)
        step = min(B, max(1, SCORES_AT_ONCE // N))
        table = v.new_empty(step, N)  # scores of `step` samples with all entries, then the entries' weights
        rows = [slice(start, start + step) for start in range(0, B, step)]
        tables = [table[:len(v[now])] for now in rows]
        scores = torch.cat([torch.mm(v[now] / nce_t, memory.T, out=some).gather(1, index[now])
                            for now, some in zip(rows, tables, strict=True)])
        _set_once(z, scores, N)
        loss, slope = _nce(scores.sub_(z.log()), q)
        ctx.save_for_backward(torch.cat([some.zero_().scatter_add_(1, index[now], slope[now]) @ memory
                                         for now, some in zip(rows, tables, strict=True)]).div_(nce_t))
        return loss

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad, None, None, None, None, None


def _nce(a, q):
    """The noise-contrastive loss of a = ln o, with the positive in column 0, and its derivative with respect to a.

    Shapes: a (B, 1 + K) -> (), (B, 1 + K).
    """
    o = a.exp()
    total = o + (q + EPS)
    loss = (total.log().sum() - a[:, 0].sum() - a[:, 1:].numel() * math.log(q)) / len(a)
    slope = o.detach() / total.detach() / len(a)
    slope[:, 0] -= 1 / len(a)
    return loss, slope


def _set_once(z, scores, n_data):
    """Sets the normaliser z () to mean(exp(scores)) * N, in the first batch only.

    No branch depends on a tensor's value, which would be a synchronisation point.
    """
    z.copy_(torch.where(z < 0, scores.exp().mean() * n_data, z))
