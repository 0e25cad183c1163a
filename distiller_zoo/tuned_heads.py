"""Opening what train_heads.py wrote: classifiers on a teacher's stage maps, for the methods in which they teach."""
import argparse
from pathlib import Path

from torch import nn

from distiller_zoo.base import Option
from errors import UsageError
from models import read_checkpoint
from models.heads import Heads

FILE = "heads.pth"


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
    "metavar": "DIR", "help": f"dih, tofd, mhkd: where train_heads.py wrote {FILE}; default: beside the teacher"})
HEAD_STAGES = Option(("--head_stages",), {
    "type": stage_list, "metavar": "N,N,...", "help": "dih, mhkd, tofd, train_heads.py: stages with a classifier, 1 "
    "being the shallowest; default: all (mhkd: 1,2; tofd: all but the last)"})


def find_heads(opt):
    """The file of --path_heads, or the one beside the teacher; None if there is none there."""
    path = Path(opt.path_heads or opt.path_t)
    if path.is_file() and not opt.path_heads:
        path = path.parent
    path = path / FILE if path.is_dir() else path
    return path if path.is_file() else None


def tuned_heads(opt, t_shapes, kind):
    """The heads of `kind` that were tuned on this teacher: OutOfState, frozen, in eval mode; opt.heads names them.

    Args:
        opt: with path_heads, path_t, teacher_hash, num_classes and head_stages (None: all that the file has).
        t_shapes: feature_shapes of the teacher.

    Raises:
        UsageError: no such file; heads of another kind or teacher, or for other images; stages that it has not.
    """
    path = find_heads(opt)
    tune = f"python train_heads.py --path_t {opt.path_t}" + (f" --head_type {kind}" if kind != "flat" else "")
    if path is None:
        raise UsageError(f"{opt.distill}: no {FILE} at {opt.path_heads or opt.path_t}: tune the teacher's heads first "
                         f"({tune}), or name their place with --path_heads")
    saved = read_checkpoint(path)
    if not {"heads", "kind", "teacher_hash"} <= saved.keys():
        raise UsageError(f"{path} holds no tuned heads: give a file that train_heads.py wrote")
    if saved["teacher_hash"] != opt.teacher_hash:
        raise UsageError(f"{path} has heads of another teacher ({saved['teacher_arch']}, {saved['teacher_hash']}, not "
                         f"{opt.teacher_hash}): tune this one's ({tune})")
    if saved["kind"] != kind:
        raise UsageError(f"{path} has heads of type {saved['kind']}, {opt.distill} takes {kind}: tune such ({tune} "
                         f"--name heads_{kind}) and name them with --path_heads")
    shapes = [tuple(shape) for shape in saved["shapes"]]
    if shapes != t_shapes[1:-1] or saved["num_classes"] != opt.num_classes:
        raise UsageError(f"{path} has heads for maps {shapes} and {saved['num_classes']} classes, the teacher gives "
                         f"{t_shapes[1:-1]} and the data set has {opt.num_classes}: tune the heads on these images")
    heads = Heads(shapes, saved["stages"], saved["num_classes"], kind, saved["pool"])
    heads.load_state_dict(saved["heads"])
    opt.heads = saved["hash"]
    wanted = opt.head_stages or saved["stages"]
    missing = sorted(set(wanted) - set(saved["stages"]))
    if missing:
        raise UsageError(f"{path} has heads for stages {saved['stages']}, not for {missing}: choose from these with "
                         f"--head_stages, or tune more ({tune})")
    return OutOfState(heads.only(wanted).eval().requires_grad_(False))


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


