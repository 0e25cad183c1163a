"""The two loops: an epoch of training, and a pass of evaluation. No method's name, no data set's, no architecture's."""
import torch

from helper.networks import NetworkOnDevice
from helper.progress import Progress


def train_epoch(objective, training, stop, *, title, epochs_left, print_freq):
    """Train on what is left of the loader's epoch; the averages end up in the meters, reset when a new one begins.

    Args:
        objective: a module, (batch, update) -> Losses, on its device.
        training: helper.state.Training: its loader knows at which step an interrupted epoch goes on, its schedule which
            learning rate a step has, its scaler is disabled unless the precision is fp16.
        stop: StopSignal, checked after each step.

    Raises:
        Interrupted: between two steps, with all state fit to be saved.
        UsageError: a loss that is not finite.
    """
    loader, meters = training.loader, training.meters
    objective.train()
    first_step = loader.state_dict()["step"]
    progress = Progress(title, len(loader), first_step=first_step, epochs_left=epochs_left, every=print_freq)
    if first_step == 0:
        meters.reset()
    try:
        for batch in loader:
            training.set_learning_rate()
            losses = objective(batch)
            training.step(losses.total)
            for update in range(1, objective.updates):
                training.step(objective(batch, update).total)
            training.average()
            meters.update(losses, batch)
            progress.advance(len(batch.target), meters.read)
            stop.check()
    finally:
        meters.seconds += progress.seconds()
        progress.close()


@torch.no_grad()
def evaluate(model, loader, device, task, *, teacher=None, detailed=False, stop=None):
    """The scores of `model` over the loader's images: a dict, as the task's scorer gives it.

    Where a batch does not fit into the GPU's memory, the loader's batches are halved, for good.

    Args:
        model: images (B, 3, H, W) -> logits (B, K), or {name: logits} of several classifiers; put into eval mode.
        device: helper.device.Device.
        task: of tasks.tasks.
        teacher: another network, whose agreement is measured too if the scores are `detailed`.
        stop: StopSignal, checked after each batch.
    """
    network = NetworkOnDevice(device)
    for each in (model, teacher):
        if each is not None:
            each.eval()
    while True:
        scorer = task.scorer(detailed)
        try:
            for batch in loader:
                scorer.update(network(model, batch.images), batch,
                              None if teacher is None else network(teacher, batch.images))
                if stop is not None:
                    stop.check()
            return scorer.compute()
        except torch.OutOfMemoryError:
            if loader.batch_size == 1:
                raise
        loader.batch_size //= 2  # here: while the exception is handled, its traceback holds the activations
        torch.cuda.empty_cache()
