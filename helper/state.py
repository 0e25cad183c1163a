"""All that changes while a network trains, and from which a run goes on to the same bits."""
from errors import UsageError
from helper.optim import make_average
from helper.seeds import random_state, set_random_state
from models import read_checkpoint
from models.earlier import updated

RESULT = ("model", "method", "modifiers")  # parts of a run's state that the trained student needs


class Training:
    """All that changes while a network trains, to be saved and restored as one.

    Args:
        objective: helper.objective.Objective, or one that looks like it.
        schedule: the learning rate by the step.
        scaler: disabled unless the precision is fp16.
        ema_decay: of the moving average of the weights; 0 for none.
    """

    def __init__(self, objective, optimizer, schedule, scaler, loader, meters, ema_decay=0.0):
        self.optimizer, self.schedule, self.scaler = optimizer, schedule, scaler
        self.loader, self.meters = loader, meters
        self.live = objective.learned()
        self.ema = make_average(self.live, ema_decay)

    @property
    def result_of(self):
        """The trained modules that are evaluated and kept: those that learn, or their moving average."""
        return self.live if self.ema is None else self.ema.module

    @property
    def steps_done(self):
        """Steps of the whole run."""
        position = self.loader.state_dict()
        return position["epoch"] * len(self.loader) + position["step"]

    def set_learning_rate(self):
        """For the step of the batch that the loader has handed out."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.steps_done - 1)

    def step(self, loss):
        """One update of what `loss` reaches; everything else has no gradient, and stays as it is."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def average(self):
        """After the updates of a batch: move the average towards the weights."""
        if self.ema is None:
            return
        self.ema.update_parameters(self.live)
        for averaged, live in zip(self.ema.module.buffers(), self.live.buffers(), strict=True):
            if not live.is_floating_point():  # counters and labels, of which there is no mean
                averaged.copy_(live)

    def result(self):
        """The part of the state that the trained student needs."""
        return _states(self.result_of)

    def rest(self):
        """What is needed besides to go on: the random generators of the process among it."""
        parts = ("optimizer", "scaler", "loader", "meters")
        rest = {name: getattr(self, name).state_dict() for name in parts} | {"rng": random_state()}
        if self.ema is not None:
            rest |= {"learning": _states(self.live), "averaged": int(self.ema.n_averaged)}
        return rest

    def state_dict(self):
        """Tensors and plain values."""
        return self.result() | self.rest()

    def load_state_dict(self, state):
        _load(self.result_of, state)
        if self.ema is not None:
            _load(self.live, state["learning"])
            self.ema.n_averaged.fill_(state["averaged"])
        for name in ("optimizer", "scaler", "loader", "meters"):
            getattr(self, name).load_state_dict(state[name])
        set_random_state(state["rng"])


def _parts(learned):
    """{entry of a checkpoint: module}: of the method and its modifiers, those that there are."""
    named = zip(RESULT, (learned.student, learned.method, learned.modifiers), strict=True)
    return {name: module for name, module in named if module is not None}


def _states(learned):
    return {name: module.state_dict() for name, module in _parts(learned).items()}


def _load(learned, state):
    for name, module in _parts(learned).items():
        module.load_state_dict(state[name])


def load_training(path, training):
    """Restore `training` from the file `path` and return the whole checkpoint.

    Raises:
        UsageError: unreadable, or of another network or method than these.
    """
    checkpoint = updated(read_checkpoint(path))
    try:
        training.load_state_dict(checkpoint)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"cannot resume from {path} ({reason}): pass --overwrite to start anew") from error
    return checkpoint
