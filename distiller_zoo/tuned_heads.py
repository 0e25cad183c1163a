"""Opening what train_heads.py wrote: classifiers on a teacher's stage maps, for the methods in which they teach."""
import argparse
import shlex
from pathlib import Path

from torch import nn

from distiller_zoo.base import Option
from errors import UsageError
from models import read_checkpoint
from models.heads import Heads

FIELDS = {"heads", "hash", "kind", "pool", "stages", "shapes", "num_classes", "teacher_arch", "teacher_hash"}


def stage_list(text):
    """An argparse type: '1,3' -> [1, 3], stages counted from the shallowest."""
    try:
        stages = [int(part) for part in text.split(",")]
    except ValueError:
        stages = [0]
    if stages != sorted(set(stages)) or stages[0] < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a rising list of stages such as 1,2,3")
    return stages


PATH_HEADS = Option(("--path_heads",), {
    "metavar": "DIR", "help": "dih, tofd, mhkd: the file that train_heads.py wrote, or its directory; default: beside "
    "the teacher (dih, tofd); mhkd has new heads, which learn with the student, unless this names tuned ones"})
HEAD_STAGES = Option(("--head_stages",), {
    "type": stage_list, "metavar": "N,N,...", "help": "dih, mhkd, tofd, train_heads.py: stages with a classifier, 1 "
    "being the shallowest; default: all (mhkd: 1,2; tofd: all but the last)"})


def heads_name(kind):
    """What train_heads.py calls its run, and its file NAME.pth, beside the teacher: a name for each kind of head."""
    return "heads" if kind == "flat" else f"heads_{kind}"


def find_heads(opt, kind):
    """The file of --path_heads, or the one beside the teacher, which need not be there."""
    path = Path(opt.path_heads) if opt.path_heads else _directory(opt.path_t)
    return path / f"{heads_name(kind)}.pth" if path.is_dir() else path


def _directory(path):
    path = Path(path)
    return path.parent if path.is_file() else path


def tuning_command(opt, kind, name=None):
    """The train_heads.py command that makes heads of `kind` for this teacher and these images, in the place of those
    that are there, or as NAME.pth."""
    given = {"path_t": opt.path_t, "model_t": opt.model_t, "head_type": kind if kind != "flat" else None,
             "data_dir": opt.data_dir if opt.data_dir != "data" else None, "name": name}
    given |= {key: opt.named.get(key) for key in ("dataset", "image_size", "holdout", "recipe")}
    words = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
    begun = (_directory(opt.path_t) / (name or heads_name(kind)) / "options.json").exists()
    return shlex.join(["python", "train_heads.py", *words, *(["--overwrite"] if begun else [])])


def tuned_heads(opt, t_shapes, kind):
    """The heads of `kind` that were tuned on this teacher: OutOfState, frozen, in eval mode; opt.heads names them.

    Args:
        opt: with path_heads, path_t, teacher_hash, num_classes and head_stages (None: all that the file has).
        t_shapes: feature_shapes of the teacher.

    Raises:
        UsageError: no such file; heads of another kind or teacher, or for other images; stages that it has not;
            damaged.
    """
    path, tune = find_heads(opt, kind), tuning_command(opt, kind)
    leave_out = " and leave out --path_heads" if opt.path_heads else ""
    if not path.is_file():
        tune = tune.removesuffix(" --overwrite")  # which would lose a run that only has to go on
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
    missing = sorted(set(opt.head_stages or ()) - set(saved["stages"]))
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
    opt.heads = saved["hash"]
    return OutOfState(heads.only(opt.head_stages or saved["stages"]).eval().requires_grad_(False))


class OutOfState(nn.Module):
    """A frozen module that moves with the one that holds it, but is no part of its state_dict.

    Flat heads of a ResNet18 at 64 pixels and 200 classes are 393 MB: too much to write after each epoch, and their own
    file, whose identity the run records, has them.
    """

    def __init__(self, module):
        super().__init__()
        self.held = (module,)  # in a tuple, so that it does not become a sub-module

    @property
    def module(self):
        return self.held[0]

    def _apply(self, function, recurse=True):
        self.module._apply(function, recurse)
        return super()._apply(function, recurse)

    def forward(self, *inputs):
        return self.module(*inputs)


