"""The run: epochs of training and evaluation, logged and saved so that a kill at any moment loses little."""
import math
import sys
import time
from contextlib import contextmanager

import torch
from torch.optim.lr_scheduler import MultiStepLR

from errors import UsageError
from helper.checkpoint import Training, load_training, save_checkpoint
from helper.loop import Interrupted, StopSignal, evaluate, train_epoch
from helper.meters import Meters
from helper.objective import FirstStage


def make_optimizer(objective, opt):
    """SGD over all that is trained, and the learning rate that falls after the epochs of `--lr_decay_epochs`."""
    optimizer = _sgd(objective, opt, opt.learning_rate)
    return optimizer, MultiStepLR(optimizer, opt.lr_decay_epochs, gamma=opt.lr_decay_rate)


def _sgd(objective, opt, learning_rate):
    """One kernel for all parameters (fused) rather than some for each."""
    return torch.optim.SGD(objective.trained_parameters(), lr=learning_rate, momentum=opt.momentum,
                           weight_decay=opt.weight_decay, nesterov=bool(opt.nesterov), fused=True)


def fit(objective, optimizer, scheduler, loaders, device, run, opt):
    """Train `objective` for opt.epochs epochs, from where the run stopped if it was begun before.

    Args:
        loaders: {"train": ..., "test": ...} and, with a held-out set, "val"; each but the first is scored every epoch.
        run: helper.run.Run, entered.

    Exits with status 128 + signal on SIGTERM or SIGINT, after saving the current step.
    """
    deployed = objective.deployed()
    loader, scored = loaders["train"], {name: loaders[name] for name in loaders if name != "train"}
    training, meters = _training(objective, optimizer, scheduler, loader, device)
    run.resume(training, best_by="val_acc" if "val" in scored else "test_acc")
    _announce(run, loader, opt)
    with _saving_on_signal(run.save, meters) as stop:
        for epoch in range(len(run.history) + 1, opt.epochs + 1):
            if loader.epoch < epoch:  # else it was trained before an interruption, and only not scored
                train_epoch(objective, training, stop, title=f"epoch {epoch}/{opt.epochs}",
                            epochs_left=opt.epochs - epoch, print_freq=opt.print_freq)
            row = _training_row(epoch, optimizer, meters)
            start = time.perf_counter()
            for name, images in scored.items():
                row |= {f"{name}_{key}": value for key, value in evaluate(deployed, images, device, stop).items()}
            row["seconds"] += time.perf_counter() - start
            _check_scores(row)
            objective.scored(row)
            scheduler.step()
            run.finish_epoch(row)
            print(_line(row, run, opt), flush=True)
        run.writer.wait()  # raises what went wrong in writing
    _conclude(run)


def pretrain(objective, loader, device, run, opt):
    """The first stage of a method that has one: some epochs on its own loss, at a constant learning rate.

    Its state is kept in run.first_stage, apart from the main stage's. Leaves student and method ready for that one, and
    the loader at its start.

    Exits as `fit` does.
    """
    method = objective.method
    stage = method.pretraining(opt)
    if stage is None:
        return
    if not run.last.exists():  # else the main stage has begun, and holds all that came of this one
        optimizer = _sgd(objective, opt, stage.learning_rate)
        training, meters = _training(objective, optimizer, MultiStepLR(optimizer, []), loader, device)
        if run.first_stage.exists():
            load_training(run.first_stage, training)

        def save():
            save_checkpoint(run.first_stage, training.state_dict())

        with _saving_on_signal(save, meters) as stop:
            for epoch in range(loader.epoch + 1, stage.epochs + 1):
                train_epoch(FirstStage(objective), training, stop, title=f"first stage {epoch}/{stage.epochs}",
                            epochs_left=stage.epochs - epoch, print_freq=opt.print_freq)
                loss = meters.read()["loss"]
                save()
                run.write_events(epoch, {"init_train_loss": loss}, part="first_stage")
                print(f"first stage {epoch}/{stage.epochs}  loss {loss:.4f}  {meters.seconds:.1f} s", flush=True)
        loader.load_state_dict({"epoch": 0, "step": 0})
    method.end_pretraining()


def _training(objective, optimizer, scheduler, loader, device):
    meters = Meters(device.device)
    scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
    return Training(objective, optimizer, scheduler, scaler, loader, meters), meters


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


def _training_row(epoch, optimizer, meters):
    """The first half of an epoch's metrics: published names for loss and accuracy, one key per loss term."""
    averages = meters.read()
    row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "train_loss": averages.pop("loss"),
           "train_acc": averages.pop("acc"), **averages}
    return row | {"seconds": meters.seconds, "images_per_second": meters.samples / meters.seconds}


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


def _line(row, run, opt):
    scores = "  ".join(f"{key.removesuffix('_acc')} {row[key]:.2f}%" for key in row if key.endswith("_acc"))
    return (f"epoch {row['epoch']}/{opt.epochs}  lr {row['lr']:.3g}  loss {row['train_loss']:.4f}  {scores}  "
            f"best {run.best[run.best_by]:.2f}% ({run.best['epoch']})  {row['seconds']:.1f} s  "
            f"{row['images_per_second']:.0f} img/s")


def _conclude(run):
    last, best = run.history[-1], run.best
    chosen = "on the test images" if run.best_by == "test_acc" else f"by {best[run.best_by]:.2f}% on held-out ones"
    print(f"test accuracy: last {last['test_acc']:.2f}%, best {best['test_acc']:.2f}% (epoch {best['epoch']}, chosen "
          f"{chosen})")
    print(f"files: {run.directory}/last.pth, best.pth, metrics.jsonl, options.json")
