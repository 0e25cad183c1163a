"""Averages over an epoch, kept on the device so that no step waits for the host."""
import torch

from errors import UsageError

_NEVER = 2**62


class Meters:
    """Sample-weighted sums of the loss terms and of the task's hits since `reset`.

    `update` only queues operations on the device; `read` is the synchronisation point. The device also records the
    first step at which a term was not finite.

    Args:
        device: torch.device. task: a task of the package tasks.
    """

    def __init__(self, device, task):
        self.device, self.task = device, task
        self.reset()

    def reset(self):
        """Sets all sums to zero and forgets the names of the terms."""
        self.names, self.step = [], 0
        self.sums = self.bad_step = None
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.samples = 0
        self.seconds = 0.0  # spent on these steps; saved with the sums, for the time of an interrupted epoch

    def update(self, losses, batch):
        """Adds a batch. losses: an Objective's Losses. batch: dataset.Batch.

        Raises UsageError if the terms differ from those of the steps before.
        """
        values = torch.stack([term.detach().float() for term in losses.terms.values()])  # (terms,)
        if self.sums is None:
            self.names = list(losses.terms)
            self.sums = torch.zeros(len(values), dtype=torch.float64, device=self.device)
            self.bad_step = torch.full((len(values),), _NEVER, dtype=torch.int64, device=self.device)
        elif self.names != list(losses.terms):
            raise UsageError(f"the loss has terms {list(losses.terms)} at step {self.step + 1}, and had {self.names}: "
                             "a method has to give the same terms in every step")
        self.step += 1
        self.sums.add_(values, alpha=len(batch.target))
        self.bad_step.clamp_(max=torch.where(values.isfinite(), _NEVER, self.step))
        self.correct += self.task.hits(losses.logits, batch)
        self.samples += len(batch.target)

    def read(self):
        """{'loss': the sum of the terms, the task's metric in %, 'loss_<term>' ...}: averages over the samples so far.

        Raises:
            UsageError: a term was not finite. The message names the term and the step, counted from 1 in this epoch.
        """
        bad = {name: step for name, step in zip(self.names, self.bad_step.tolist(), strict=True) if step < _NEVER}
        if bad:
            name = min(bad, key=bad.get)
            raise UsageError(f"loss term '{name}' is not finite at step {bad[name]}: lower the learning rate or its "
                             "weight, or try --precision fp32")
        means = (self.sums / self.samples).tolist()
        return {"loss": sum(means), self.task.metric: 100 * self.correct.item() / self.samples,
                **{f"loss_{name}": mean for name, mean in zip(self.names, means, strict=True)}}

    def state_dict(self):
        """Everything, as tensors and plain values."""
        return {key: value for key, value in vars(self).items() if key not in ("device", "task")}

    def load_state_dict(self, state):
        """Continues from the `state_dict` of another Meters."""
        for key, value in state.items():
            setattr(self, key, value.to(self.device) if isinstance(value, torch.Tensor) else value)
