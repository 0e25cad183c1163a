"""The run: epochs of training and evaluation, logged and saved so that a kill at any moment loses little."""
import math
import sys
import time
from contextlib import contextmanager

import torch

from errors import UsageError
from helper.loop import evaluate, train_epoch
from helper.meters import Meters
from helper.objective import FirstStage
from helper.optim import Schedule, constant, make_optimizer
from helper.state import Training, load_training
from helper.stop import Interrupted, StopSignal
from models.checkpoint import save_checkpoint


def fit(objective, loaders, device, run, opt, task):
    """Train `objective` for opt.epochs epochs, from where the run stopped if it was begun before.

    Args:
        loaders: {"train": ..., "test": ...} and, with a held-out set, "val"; each but the first is scored every epoch.
        run: runs.directory.Run, entered.
        task: of tasks.tasks.

    Exits with status 128 + signal on SIGTERM or SIGINT, after saving the current step.
    """
    loader, scored = loaders["train"], {name: loaders[name] for name in loaders if name != "train"}
    optimizer = make_optimizer(objective.trained_parameters(), opt)
    training = _training(objective, optimizer, Schedule(opt, len(loader)), loader, device, task, opt.ema_decay)
    deployed, meters = objective.deployed(training.result_of), training.meters
    run.resume(training, task, load_training(run.last, training)["history"] if run.last.exists() else [])
    _announce(run, loader, opt)
    with _saving_on_signal(run.save, meters) as stop:
        for epoch in range(len(run.history) + 1, opt.epochs + 1):
            if loader.epoch < epoch:  # else it was trained before an interruption, and only not scored
                train_epoch(objective, training, stop, title=f"epoch {epoch}/{opt.epochs}",
                            epochs_left=opt.epochs - epoch, print_freq=opt.print_freq)
            row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], **task.training_row(meters.read())}
            row |= {"seconds": meters.seconds, "images_per_second": meters.samples / meters.seconds}
            start = time.perf_counter()
            for split, images in scored.items():
                row |= task.scored_row(split, evaluate(deployed, images, device, task, stop=stop))
            row["seconds"] += time.perf_counter() - start
            _check_scores(row)
            objective.scored(row)
            run.finish_epoch(row)
            print(_line(row, run, opt, task), flush=True)
        run.writer.wait()  # raises what went wrong in writing
    _conclude(run, task)


def pretrain(objective, loader, device, run, opt, task):
    """The first stages of a method that has some: epochs on a loss of their own, at a constant learning rate.

    The state of each is kept in a file of its own, run.first_stage(number), apart from the main stage's. Leaves student
    and method ready for that one, and the loader at its start.

    Exits as `fit` does.
    """
    stages = [] if objective.method is None else objective.method.stages()
    for number, stage in enumerate(stages, 1):
        if not run.last.exists():  # else the main stage has begun, and holds all that came of these
            title = f"first stage {number}" if len(stages) > 1 else "first stage"
            _pretrain(FirstStage(objective, stage), title, run.first_stage(number), loader, device, run, opt, task)
        for module in stage.freeze:
            module.requires_grad_(False)


def _pretrain(objective, title, file, loader, device, run, opt, task):
    stage = objective.stage
    optimizer = make_optimizer(objective.trained_parameters(), opt, stage.learning_rate)
    training = _training(objective, optimizer, constant(stage.learning_rate), loader, device, task)
    meters = training.meters
    if file.exists():
        load_training(file, training)

    def save():
        save_checkpoint(file, training.state_dict())

    with _saving_on_signal(save, meters) as stop:
        for epoch in range(loader.epoch + 1, stage.epochs + 1):
            train_epoch(objective, training, stop, title=f"{title} {epoch}/{stage.epochs}",
                        epochs_left=stage.epochs - epoch, print_freq=opt.print_freq)
            loss = meters.read()["loss"]
            save()
            run.write_events(epoch, {"init_train_loss": loss}, part="first_stage")
            print(f"{title} {epoch}/{stage.epochs}  loss {loss:.4f}  {meters.seconds:.1f} s", flush=True)
    loader.load_state_dict({"epoch": 0, "step": 0})


def _training(objective, optimizer, schedule, loader, device, task, ema_decay=0.0):
    meters = Meters(device.device, task)
    scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
    return Training(objective, optimizer, schedule, scaler, loader, meters, ema_decay)


@contextmanager
def _saving_on_signal(save, meters):
    """A StopSignal for the loops within; when it stops them, `save()` and leave the process."""
    with StopSignal() as stop:
        try:
            yield stop
        except Interrupted:
            meters.read()  # raises rather than save what a loss that is not finite has trained
            save()
            print(f"stopped by signal {stop.signal} and saved: the same command, without --overwrite, goes on from "
                  "here", file=sys.stderr)
            sys.exit(128 + stop.signal)


def _check_scores(row):
    """The last step of an epoch can ruin the weights after its loss was found good: the evaluation shows it."""
    for key, value in row.items():
        if not math.isfinite(value):
            raise UsageError(f"{key} is not finite after epoch {row['epoch']}: lower the learning rate or the losses' "
                             "weights, or try --precision fp32")


def _announce(run, loader, opt):
    done, step = len(run.history), loader.state_dict()["step"]
    if done == opt.epochs:
        state = f"all {done} epochs were done before"
    elif done or step:
        state = f"going on after epoch {done} of {opt.epochs}" + (f" and {step}/{len(loader)} steps" if step else "")
    else:
        state = f"{opt.epochs} epochs to go"
    print(f"{run.directory}: {state}", flush=True)


def _line(row, run, opt, task):
    best = task.best(run.history)
    return (f"epoch {row['epoch']}/{opt.epochs}  lr {row['lr']:.3g}  loss {row['train_loss']:.4f}  {task.line(row)}  "
            f"best {task.value(best, task.choosing_split(best)):.2f}% ({best['epoch']})  {row['seconds']:.1f} s  "
            f"{row['images_per_second']:.0f} img/s")


def _conclude(run, task):
    last, best = run.history[-1], task.best(run.history)
    split = task.choosing_split(best)
    chosen = "on the test images" if split == "test" else f"by {task.value(best, split):.2f}% on held-out ones"
    print(f"test accuracy: last {task.value(last):.2f}%, best {task.value(best):.2f}% (epoch {best['epoch']}, chosen "
          f"{chosen})")
    print(f"files: {run.directory}/last.pth, best.pth, metrics.jsonl, options.json")
