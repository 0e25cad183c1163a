"""The two loops: an epoch of training, and a pass of evaluation. No method's name, no data set's, no architecture's."""
import signal

import torch
import torch.nn.functional as F

from helper.objective import NetworkOnDevice
from helper.progress import Progress


class Interrupted(Exception):
    """A signal asked the run to save and stop."""


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag that the loops look at between two steps.

    Use as a context manager; `signal` is the number received, or None. A second SIGINT ends the process at once.
    """

    signal = None

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number

    def check(self):
        """Raises Interrupted once a signal has come."""
        if self.signal is not None:
            raise Interrupted


def train_epoch(objective, training, stop, *, title, epochs_left, print_freq):
    """Train on what is left of the loader's epoch; the averages end up in the meters, reset when a new one begins.

    Args:
        objective: a module, batch -> Losses, on its device.
        training: helper.checkpoint.Training: its loader knows at which step an interrupted epoch goes on, its scaler is
            disabled unless the precision is fp16.
        stop: StopSignal, checked after each step.

    Raises:
        Interrupted: between two steps, with all state fit to be saved.
        UsageError: a loss that is not finite.
    """
    loader, optimizer, scaler, meters = training.loader, training.optimizer, training.scaler, training.meters
    objective.train()
    first_step = loader.state_dict()["step"]
    progress = Progress(title, len(loader), first_step=first_step, epochs_left=epochs_left, every=print_freq)
    if first_step == 0:
        meters.reset()
    try:
        for batch in loader:
            losses = objective(batch)
            _update(losses.total, optimizer, scaler)
            for turn in range(1, objective.turns):
                _update(objective.turn(batch, turn).total, optimizer, scaler)
            meters.update(losses, batch.target)
            progress.advance(len(batch.target), meters.read)
            stop.check()
    finally:
        meters.seconds += progress.seconds()
        progress.close()


def _update(loss, optimizer, scaler):
    """One step of what `loss` reaches; everything else has no gradient, and stays as it is."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


@torch.no_grad()
def evaluate(model, loader, device, stop=None):
    """Cross-entropy, top-1 and top-5 accuracy of `model` over the loader's images.

    Where a batch does not fit into the GPU's memory, the loader's batches are halved, for good.

    Args:
        model: images (B, 3, H, W) -> logits (B, K), or {name: logits} of several classifiers; put into eval mode.
        device: helper.device.Device.
        stop: StopSignal, checked after each batch.

    Returns:
        {"loss", "acc", "acc_top5"}: nats, %, % (top-5 of fewer than five classes is 100). Of several classifiers: the
        means, and "NAME_loss", "NAME_acc" of each.
    """
    model.eval()
    while True:
        try:
            sums, samples, names = _sums(model, loader, NetworkOnDevice(device), stop)
            break
        except torch.OutOfMemoryError:
            if loader.batch_size == 1:
                raise
            loader.batch_size //= 2
            torch.cuda.empty_cache()
    rows = (sums / samples).cpu() * torch.tensor([1.0, 100.0, 100.0])  # (classifiers, 3)
    scores = dict(zip(("loss", "acc", "acc_top5"), rows.mean(0).tolist(), strict=True))
    for name, (loss, acc, _) in zip(names, rows.tolist(), strict=False):
        scores |= {f"{name}_loss": loss, f"{name}_acc": acc}
    return scores


def _sums(model, loader, network, stop):
    """Sums of _score over the loader's images, a row for each classifier; the images; the names, [] of one alone."""
    sums, samples, names = 0, 0, []
    for batch in loader:
        out = network(model, batch.images)
        names = list(out) if isinstance(out, dict) else []
        sums = sums + torch.stack([_score(out[name], batch.target) for name in names] or [_score(out, batch.target)])
        samples += len(batch.target)
        if stop is not None:
            stop.check()
    return sums, samples, names


def _score(logits, target):
    """Summed cross-entropy, and numbers of top-1 and top-5 hits, of logits (B, K): (3,) float64."""
    logits = logits.float()
    hits = logits.topk(min(5, logits.shape[1])).indices == target[:, None]  # (B, 5)
    loss = F.cross_entropy(logits, target, reduction="sum")
    return torch.stack([loss.double(), hits[:, 0].sum().double(), hits.sum().double()])
