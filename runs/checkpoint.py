"""Checkpoints while training goes on: a copy of the state, and a thread that writes it."""
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils._pytree import tree_map_only


def snapshot(value):
    """A copy of the tensors in nested dicts, lists and tuples, in the CPU's memory: what happens to them later does not
    reach it."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), value)


class Writer:
    """One thread that does the writing while training goes on; one job at a time, in the order they came."""

    def __init__(self):
        self._thread, self._job = ThreadPoolExecutor(max_workers=1), None

    def submit(self, write, *args):
        """Have write(*args) done, once the job before is. Raises what that one raised."""
        self.wait()
        self._job = self._thread.submit(write, *args)

    def wait(self):
        """Return when all is written. Raises what the writing raised."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self):
        """As `wait`, without raising, and for good."""
        self._thread.shutdown()
