"""The file that train_heads.py writes: auxiliary classifiers trained on a teacher's stage maps. Writes and opens it."""
import shlex
from pathlib import Path

from torch import nn

from errors import UsageError
from models.checkpoint import read_checkpoint, save_checkpoint
from models.heads import Heads
from models.probe import weights_hash

FIELDS = {"heads", "hash", "kind", "pool", "stages", "shapes", "num_classes", "teacher_arch", "teacher_hash"}


def heads_name(kind):
    """The name of train_heads.py's run and of its file NAME.pth, beside the teacher. Each kind of head has a name."""
    return "heads" if kind == "flat" else f"heads_{kind}"


def find_heads(opt, kind):
    """The path of the file that --path_heads names, or of the one beside the teacher. It need not exist."""
    path = Path(opt.path_heads) if opt.path_heads else _directory(opt.path_t)
    return path / f"{heads_name(kind)}.pth" if path.is_dir() else path


def _directory(path):
    path = Path(path)
    return path.parent if path.is_file() else path


def tuning_command(opt, kind, name=None):
    """The train_heads.py command that trains heads of `kind` for this teacher and these images.

    name: of the run and file, if not the default. The command has --overwrite if that run has begun.
    """
    given = {"path_t": opt.path_t, "model_t": opt.model_t, "head_type": kind if kind != "flat" else None,
             "data_dir": opt.data_dir if opt.data_dir != "data" else None, "name": name}
    given |= {key: getattr(opt, key) for key in ("dataset", "image_size", "holdout", "recipe") if key in opt.given}
    words = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
    begun = (_directory(opt.path_t) / (name or heads_name(kind)) / "options.json").exists()
    return shlex.join(["python", "train_heads.py", *words, *(["--overwrite"] if begun else [])])


def tuned_heads(opt, t_shapes, kind, stages=None):
    """The auxiliary classifiers of `kind` that were trained on this teacher: OutOfState, frozen, in eval mode.

    Args:
        opt: distill, path_heads, path_t, teacher_hash and num_classes, and the options that `tuning_command` prints.
        t_shapes: feature_shapes of the teacher.
        kind: a key of models.heads.HEAD_TYPES.
        stages: the stages whose heads are needed; None for all in the file.

    Raises:
        UsageError: the file is missing or damaged; its heads are of another kind or teacher, or for other images; it
            has no heads for one of the stages.
    """
    path, tune = find_heads(opt, kind), tuning_command(opt, kind)
    leave_out = " and leave out --path_heads" if opt.path_heads else ""
    if not path.is_file():
        tune = tune.removesuffix(" --overwrite")  # it would delete a run that only has to be resumed
        raise UsageError(f"{opt.distill}: there is no {path}: tune the teacher's heads first ({tune}){leave_out}, or "
                         "name their place with --path_heads")
    saved = read_checkpoint(path)
    if FIELDS - saved.keys():
        raise UsageError(f"{path} holds no tuned heads: give a file that train_heads.py wrote")
    if saved["teacher_hash"] != opt.teacher_hash:
        raise UsageError(f"{path} has heads of another teacher ({saved['teacher_arch']}, {saved['teacher_hash']}, not "
                         f"{opt.teacher_hash}): tune this one's ({tune}){leave_out}")
    if saved["kind"] != kind:
        raise UsageError(f"{path} has heads of type {saved['kind']}, {opt.distill} takes {kind}: tune such ({tune})"
                         f"{leave_out}")
    shapes = [tuple(shape) for shape in saved["shapes"]]
    if shapes != t_shapes[1:-1] or saved["num_classes"] != opt.num_classes:
        raise UsageError(f"{path} has heads for maps {shapes} and {saved['num_classes']} classes, the teacher gives "
                         f"{t_shapes[1:-1]} and the data set has {opt.num_classes}: tune the heads on these images "
                         f"({tune}){leave_out}")
    missing = sorted(set(stages or ()) - set(saved["stages"]))
    if missing:
        raise UsageError(f"{path} has heads for stages {saved['stages']}, not for {missing}: choose from these with "
                         f"--head_stages, or tune all ({tune}){leave_out}")
    heads = Heads(shapes, saved["stages"], saved["num_classes"], kind, saved["pool"])
    try:
        heads.load_state_dict(saved["heads"])
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(f"{path} is damaged ({reason}): tune the heads again ({tune})") from error
    if not all(tensor.isfinite().all() for tensor in heads.state_dict().values()):
        raise UsageError(f"{path} has weights that are not finite: tune the heads again ({tune})")
    return OutOfState(heads.only(stages or saved["stages"]).eval().requires_grad_(False), saved["hash"])


class OutOfState(nn.Module):
    """A frozen module that moves between devices with its owner, but is not in the owner's state_dict.

    Flat heads of a ResNet18 at 64 pixels and 200 classes take 393 MB, too much to write after each epoch. Their own
    file has them, and the run records its hash.

    Args:
        module: the frozen module.
        hash: digits that identify the file from which the module was loaded.
    """

    def __init__(self, module, hash):
        super().__init__()
        self.hash = hash
        self.held = (module,)  # in a tuple, so that it does not become a sub-module

    @property
    def module(self):
        return self.held[0]

    def _apply(self, function, recurse=True):
        self.module._apply(function, recurse)
        return super()._apply(function, recurse)

    def forward(self, *inputs):
        return self.module(*inputs)


def heads_hash(method):
    """Digits that identify the heads that a method or module has loaded, or None if it has none."""
    return next((module.hash for module in method.modules() if isinstance(module, OutOfState)), None)


def check_place(path):
    """Raises UsageError if the file at `path` exists and holds no heads, such as the teacher itself."""
    if path.exists() and "heads" not in read_checkpoint(path):
        raise UsageError(f"{path} is there and holds no heads: give another --name")


def save_heads(path, heads, facts):
    """Writes a teacher's heads to a file, for the methods that distil from them.

    facts: further entries: num_classes, image_size, teacher_arch, teacher_hash, teacher_acc, and the measurements of
        each head.
    Raises UsageError if the file cannot be written.
    """
    save_checkpoint(path, {"heads": heads.state_dict(), "hash": weights_hash(heads)[:6], "kind": heads.kind,
                           "pool": heads.pool, "stages": list(heads.stages),
                           "shapes": [list(shape) for shape in heads.shapes], **facts})
