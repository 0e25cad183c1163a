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
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(losses.total).backward()
            scaler.step(optimizer)
            scaler.update()
            meters.update(losses, batch.target)
            progress.advance(len(batch.target), meters.read)
            stop.check()
    finally:
        meters.seconds += progress.seconds()
        progress.close()


@torch.no_grad()
def evaluate(model, loader, device, stop=None):
    """Cross-entropy, top-1 and top-5 accuracy of `model` over the loader's images.

    Args:
        model: images (B, 3, H, W) -> logits (B, K); put into eval mode.
        device: helper.device.Device.
        stop: StopSignal, checked after each batch.

    Returns:
        {"loss", "acc", "acc_top5"}: nats, %, % (top-5 of fewer than five classes is 100).
    """
    model.eval()
    network = NetworkOnDevice(device)
    sums = torch.zeros(3, dtype=torch.float64, device=device.device)
    samples = 0
    for batch in loader:
        logits = network(model, batch.images).float()  # (B, K)
        hits = logits.topk(min(5, logits.shape[1])).indices == batch.target[:, None]  # (B, 5)
        loss = F.cross_entropy(logits, batch.target, reduction="sum")
        sums += torch.stack([loss.double(), hits[:, 0].sum().double(), hits.sum().double()])
        samples += len(batch.target)
        if stop is not None:
            stop.check()
    loss, top1, top5 = (sums / samples).tolist()
    return {"loss": loss, "acc": 100 * top1, "acc_top5": 100 * top5}
