"""The plain path, with which speed.py compares: RepDistiller's training, rewritten for current PyTorch.

It uses float32, contiguous layout, PIL transforms in DataLoader workers, and scalars read in every step. For CRD, the
workers draw the negatives, and the entries of both banks are gathered, (B, K + 1, D) each.
"""
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from crd.criterion import EPS, CRDLoss
from dataset import Batch
from distiller_zoo.method import Method
from helper.device import Device


class PlainPath:
    """Calling it trains for one epoch of `data` and returns the seconds per step.

    Args:
        make: (device, the Method that replaces the zoo's CRDMethod) -> (Objective, optimiser).
        data: dataset.Data.
        device: helper.device.Device; the precision is always float32.
        workers: number of processes that load the images.
    """

    def __init__(self, make, data, batch_size, device, workers):
        self.device = Device(device.device, device.device_ids, "fp32")
        self.objective, self.optimizer = make(self.device, GatheringCRD)
        negatives = self.objective.method.negatives if isinstance(self.objective.method, GatheringCRD) else None
        self.loader = DataLoader(_Images(data, negatives), batch_size=batch_size, shuffle=True, drop_last=True,
                                 num_workers=workers, persistent_workers=workers > 0,
                                 pin_memory=device.device.type == "cuda")

    def __call__(self):
        self.objective.train()
        loss_sum = top1 = top5 = 0.0
        start = None
        for images, target, index, contrasted in self.loader:
            if start is None:
                start = time.perf_counter()  # the workers have started
            images, target, index, contrasted = (x.to(self.device.device) for x in (images, target, index, contrasted))
            if isinstance(self.objective.method, GatheringCRD):
                self.objective.method.contrasted = contrasted
            losses = self.objective(Batch(images, target, index))
            hits = losses.logits.topk(5).indices == target[:, None]
            loss_sum += losses.total.item() * len(target)
            top1 += hits[:, 0].sum().item()
            top5 += hits.sum().item()
            self.optimizer.zero_grad()
            losses.total.backward()
            self.optimizer.step()
        if self.device.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / len(self.loader)


class _Images(Dataset):
    """(image (3, H, W), class, index, indices of positive and negatives (1 + K,), empty without `negatives`)."""

    def __init__(self, data, negatives):
        self.images, self.negatives = data.train, negatives
        self.transform = transforms.Compose([
            transforms.RandomCrop(data.image_size, data.padding), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        target = int(self.images.targets[index])
        contrasted = np.empty(0, dtype=np.int64)
        if self.negatives is not None:
            of_others, k = self.negatives
            drawn = np.random.choice(of_others[target], k, replace=k > len(of_others[target]))
            contrasted = np.concatenate([[index], drawn])
        return self.transform(self.images.pil(index)), target, index, contrasted


class GatheringCRD(Method):
    """CRD as published: gathers the K + 1 entries of a sample from each bank, then multiplies them."""

    def __init__(self, student, teacher, opt):
        super().__init__(student, teacher, opt)
        self.loss = CRDLoss(self.s_shapes[-1][0], self.t_shapes[-1][0], opt.n_data, opt.feat_dim, opt.nce_k, opt.nce_t,
                            opt.nce_m)
        targets = opt.targets.numpy()
        self.negatives = [np.flatnonzero(targets != k) for k in range(opt.num_classes)], opt.nce_k
        self.contrasted = None  # (B, K + 1) indices for the next batch

    def forward(self, s, t, batch):
        crd, bank = self.loss, self.loss.contrast
        v_s, v_t = crd.embed_s(s.embedding), crd.embed_t(t.embedding)
        loss = 0
        for v, memory, z in ((v_s, bank.memory_v2, bank.params[2]), (v_t, bank.memory_v1, bank.params[3])):
            entries = memory.index_select(0, self.contrasted.view(-1)).view(*self.contrasted.shape, -1)  # (B, K+1, D)
            o = torch.exp(torch.bmm(entries, v.unsqueeze(2)).squeeze(2) / crd.nce_t)
            if z.item() < 0:
                z.copy_(o.detach().mean() * crd.n_data)
            o = o / z.clone()
            positive, negative = o[:, :1], o[:, 1:]
            terms = torch.log(positive / (positive + crd.q + EPS)).sum() + torch.log(
                crd.q / (negative + crd.q + EPS)).sum()
            loss = loss - terms / len(o)
        bank.update(v_s.detach(), v_t.detach(), batch.index)
        return loss
