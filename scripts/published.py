"""Print the runs of the published experiments, as a list for scripts/sweep.py.

    python scripts/published.py repdistiller --trials 3 --methods kd,crd --students resnet8x4 > runs.txt
    python scripts/sweep.py --list runs.txt --jobs 2
"""
import argparse
import os
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import parser as cli
from errors import UsageError

TABLE = Path(__file__).with_name("published.tsv")
EXPERIMENTS = {
    "repdistiller": "every method of RepDistiller's tables on its 13 pairs, with the published weights",
    "simkd": "every method of SimKD's table on its three pairs, with the published weights",
    "headsharing": "TH-KD, the SH-KD teacher and its student, and what HeadSharingKD compares; --more 1: heads too",
    "heads": "a copied head, the same weights without sharing, and the projector",
    "vanilla": "every teacher and student of RepDistiller's and SimKD's tables, by cross-entropy",
    "dih": "a teacher, its heads, DIH and the baselines of its README; --more 1: the student alone and mutual learning",
    "takd": "a chain of teacher assistants: TEACHER ASSISTANT... STUDENT, each distilled by kd from the one before it",
    "compare": "every registered method at its published weights, and the student alone, from one trained --teacher",
}
COUNTS = {"--trials", "--epochs", "--teacher_epochs", "--init_epochs"}
# Flag, variable of the environment, default, help. An empty variable counts as one that is not set.
SETTINGS = (
    ("--dataset", "DATASET", "cifar100", "of all runs"),
    ("--data_dir", "DATA_DIR", "data", "of all runs"),
    ("--save_dir", "SAVE_DIR", "save", "of all runs"),
    ("--trials", "TRIALS", 3, "trials 0 ... N - 1 of each setting; a teacher that is distilled from has trial 0"),
    ("--epochs", "EPOCHS", None, "of all runs but the teachers; default: 240, for dih 200"),
    ("--teacher_epochs", "TEACHER_EPOCHS", None, "of the teachers that are distilled from; default: --epochs"),
    ("--methods", "METHODS", "", "only these, separated by commas or spaces; dih, compare: these, in this order"),
    ("--students", "STUDENTS", "", "only these, of the table's"),
    ("--models", "MODELS", "", "vanilla: only these"),
    ("--model_t", "MODEL_T", None, "the teacher; default for dih: resnet110, for headsharing and heads: resnet32x4"),
    ("--model_s", "MODEL_S", None, "the student; default for dih and compare: resnet8, for headsharing and heads: "
     "resnet8x4. compare takes it from STUDENT too"),
    ("--assistant", "ASSISTANT", "resnet20", "dih: the teacher assistant"),
    ("--teacher", "TEACHER", None, "compare: the teacher's checkpoint or run, such as save/teachers/NAME"),
    ("--init_epochs", "INIT_EPOCHS", None, "length of first stages; default for dih: 40, for compare: 2"),
    ("--more", "MORE", "", "headsharing, dih: not empty: more experiments"),
    ("--flags", "FLAGS", "", "more flags for every run, such as --flags='--recipe dih'"),
)
EPILOG = "experiments:\n" + "\n".join(f"  {name:13} {what}" for name, what in EXPERIMENTS.items()) + """

Defaults of the flags are taken from the environment: the word behind a flag is its variable. run_*.sh and
compare_methods.sh pass their arguments to this script, and the list to sweep.py, with GPU as --gpus, JOBS as --jobs and
SHARD as --shard. PYTHON is their interpreter (setup.sh)."""


def main(argv=None):
    opt = published_options(argv)
    runs = Runs(opt)
    makers = {"vanilla": add_vanilla, "dih": add_dih, "takd": add_takd, "compare": add_compare}
    makers.get(opt.experiment, add_table)(runs, opt)
    print("\n".join(runs.lines))


def published_options(argv=None):
    """Raises UsageError."""
    parser = cli.Parser(description=__doc__, epilog=EPILOG)
    parser.add_argument("experiment", choices=list(EXPERIMENTS), metavar="EXPERIMENT", help="see below")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="takd: the chain, from the teacher on")
    for flag, variable, default, text in SETTINGS:
        parser.add_argument(flag, type=count if flag in COUNTS else str, default=os.environ.get(variable) or default,
                            metavar=variable, help=text)
    opt = parser.parse_args(argv)
    opt.epochs = opt.epochs or (200 if opt.experiment == "dih" else 240)
    opt.teacher_epochs = opt.teacher_epochs or opt.epochs
    if opt.networks and opt.experiment != "takd":
        raise UsageError(f"{opt.experiment} takes no names of networks: leave out {' '.join(opt.networks)}")
    for key in ("methods", "students", "models"):
        setattr(opt, key, re.findall(r"[^,\s]+", getattr(opt, key)))
    return opt


def count(text):
    """An argparse type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


class Runs:
    """The lines of a list for scripts/sweep.py, in order; a line that is there is not added again.

    Methods that make what later lines read return '@LABEL', which stands for it there.
    """

    def __init__(self, opt):
        self.lines = []
        self.trials = list(map(str, range(opt.trials)))
        self.epochs, self.teacher_epochs = opt.epochs, opt.teacher_epochs
        self.common = ["--dataset", opt.dataset, "--data_dir", opt.data_dir, "--save_dir", opt.save_dir]
        self.more = shlex.split(opt.flags)

    def add(self, *words, label=None, epochs=None):
        """A run: script and flags of its own, before those of all runs."""
        words = [*words, *self.common, "--epochs", str(epochs or self.epochs), *self.more]
        line = (f"{label}: " if label else "") + shlex.join(words)
        self.lines += [] if line in self.lines else [line]
        return f"@{label}"

    def alone(self, model, trial):
        """A network by cross-entropy."""
        label = f"{_label(model)}-alone" if trial == "0" else None
        return self.add("train_teacher.py", "--model", model, "--trial", trial, label=label)

    def teacher(self, model, trial="0"):
        """The same for teacher_epochs. MODEL:OTHER has the classifier of trial 0 of OTHER, frozen (SH-KD)."""
        model, _, other = model.partition(":")
        head = ["--path_th", self.alone(other, "0")] if other else []
        label = _label(f"{model}-th-{other}" if other else model) if trial == "0" else None
        return self.add("train_teacher.py", "--model", model, *head, "--trial", trial, label=label,
                        epochs=self.teacher_epochs)

    def heads(self, teacher, kind):
        """Those of a teacher, where the methods look for that type."""
        self.add("train_heads.py", "--path_t", teacher, "--head_type", kind)

    def student(self, path_t, model, method, flags, trial, label=None):
        """A student. path_t: its teacher, None for a method that has none."""
        path_t = ["--path_t", path_t] if path_t else []
        return self.add("train_student.py", *path_t, "--model_s", model, "--distill", method, *flags, "--trial", trial,
                        label=label)

    def chain(self, path_t, names):
        """Each of `names` but the first distilled by kd from the one before it, the last in all trials.

        path_t: the first, a teacher.
        """
        for i, model in enumerate(names[1:], 1):
            last = i == len(names) - 1
            for trial in self.trials if last else ["0"]:
                label = None if last else _label("-".join(["takd", *names[:i + 1]]))
                made = self.student(path_t, model, "kd", [], trial, label)
            path_t = made


def add_table(runs, opt):
    """The rows of the table that opt.methods and opt.students ask for, each in all trials."""
    rows = read_table([opt.experiment, *(["heads"] if opt.experiment == "headsharing" and opt.more else [])],
                      opt.model_t, opt.model_s)
    check_known("METHODS", opt.methods, [method for _, _, method, _ in rows])
    check_known("STUDENTS", opt.students, [student for _, student, _, _ in rows])
    for teacher, student, method, flags in rows:
        if (opt.methods and method not in opt.methods) or (opt.students and student not in opt.students):
            continue
        for trial in runs.trials:
            if ":" in student:
                runs.teacher(student, trial)
            elif method == "alone":
                runs.alone(student, trial)
            else:
                runs.student(runs.teacher(teacher), student, method, flags, trial)


def add_vanilla(runs, opt):
    """Every network of the tables, by cross-entropy."""
    names = sorted({name for row in read_table(["repdistiller", "simkd"]) for name in row[:2]})
    check_known("MODELS", opt.models, names)
    for model in names:
        for trial in runs.trials if not opt.models or model in opt.models else []:
            runs.alone(model, trial)


def add_dih(runs, opt):
    """The pipeline of DIH: teacher, heads, DIH and every baseline."""
    from distiller_zoo import get_method  # here and below, because PyTorch takes seconds to import
    names = ["dih", "kd", "hint", "takd", "attention", "crd", "tofd", "mhkd"]
    check_known("METHODS", opt.methods, [*names, "dml", "alone"])
    runs.more = ["--recipe", "dih", *runs.more]
    name_t, name_s = opt.model_t or "resnet110", opt.model_s or "resnet8"
    teacher = runs.teacher(name_t)
    for method in opt.methods or names + (["dml", "alone"] if opt.more else []):
        if method == "takd":
            runs.chain(teacher, [name_t, opt.assistant, name_s])
            continue
        composed = None if method == "alone" else get_method(method)
        if composed and heads_kind(composed):
            runs.heads(teacher, heads_kind(composed))
        flags = {"hint": ["--init_epochs", str(opt.init_epochs or 40)], "dml": ["--peers", name_t]}.get(method, [])
        for trial in runs.trials:
            if method == "alone":
                runs.alone(name_s, trial)
            else:
                runs.student(teacher if composed.needs_teacher else None, name_s, method, flags, trial)


def add_takd(runs, opt):
    """The chain of opt.networks."""
    if len(opt.networks) < 2:
        raise UsageError("takd: name the chain's networks: TEACHER ASSISTANT... STUDENT")
    runs.chain(runs.teacher(opt.networks[0]), opt.networks)


def add_compare(runs, opt):
    """Every method from opt.teacher, trial by trial, after the heads that some need and that are not there yet."""
    if not opt.teacher:
        raise UsageError("compare: set TEACHER (--teacher) to the directory of a teacher, such as save/teachers/NAME")
    from distiller_zoo import get_method, methods
    from models.tuned import heads_name

    student = opt.model_s or os.environ.get("STUDENT") or "resnet8"
    chosen = [get_method(name) for name in opt.methods or methods]
    folder = Path(opt.teacher).parent if Path(opt.teacher).is_file() else Path(opt.teacher)
    for kind in filter(None, map(heads_kind, chosen)):
        if not (folder / f"{heads_name(kind)}.pth").exists():
            runs.heads(opt.teacher, kind)
    for trial in runs.trials:
        runs.alone(student, trial)
        for method in chosen:
            first = any(option.name == "init_epochs" for option in method.options)
            flags = ["--init_epochs", str(opt.init_epochs or 2)] if first else []
            path_t = opt.teacher if method.needs_teacher else None
            runs.student(path_t, student, method.name, [*flags, "--skip_validation"], trial)


def read_table(sources, model_t=None, model_s=None):
    """The rows of published.tsv of these sources, as (teacher, student, method, [flag, ...]).

    model_t, model_s: in place of resnet32x4 and resnet8x4, in sources that have this pair alone.

    Raises:
        UsageError: the table has no rows of a source.
    """
    instead = {"resnet32x4": model_t or "resnet32x4", "resnet8x4": model_s or "resnet8x4"}
    lines = [line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    rows = []
    for wanted in sources:
        found = [line for line in lines if line[0] == wanted]
        if not found:
            raise UsageError(f"{TABLE} has no rows of {wanted}")
        for source, *pair, method, flags, _, _ in found:
            if source in ("headsharing", "heads"):
                pair = [":".join(instead.get(name, name) for name in names.split(":")) for names in pair]
            rows.append((*pair, method, [] if flags == "-" else flags.split()))
    return rows


def check_known(variable, names, choices):
    """Raises UsageError for a name that is not among the choices."""
    for name in names:
        if name not in choices:
            raise UsageError(f"{variable}: there is no '{name}' here: choose from {' '.join(sorted(set(choices)))}")


def heads_kind(method):
    """The type of the teacher's heads that a Composition learns from, None for most."""
    return method.reads and method.reads.heads


def _label(name):
    """A label of names of networks: torchvision/resnet18 -> torchvision.resnet18."""
    return name.replace("/", ".")


if __name__ == "__main__":
    cli.run(main)
