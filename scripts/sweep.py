"""Many runs, some at a time on each device: teachers, then pairs x methods x trials, and the table of the results.

    python scripts/sweep.py --pairs resnet20:resnet8,wrn_16_2:resnet8 --methods alone,kd,crd,srrl+th --trials 2 \\
        --jobs 2 -- --dataset folder --data_dir DIR --epochs 8
"""
import hashlib
import os
import re
import shlex
import sys
from contextlib import nullcontext
from functools import cache
from itertools import groupby, product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import parser as cli
from cli.options import heads_options, student_options, teacher_options
from distiller_zoo import get_method
from distiller_zoo.options import PATH_HEADS
from errors import UsageError, unknown
from files import lock
from flags import number
from helper.build import open_data
from models import check_name, model_dict, open_checkpoint
from models.registry import from_source
from models.tuned import find_heads
from runs.plots import bars, plot, plot_heads
from runs.record import RunRecord
from runs.report import find_runs, group_runs, split_groups, table
from runs.sweep import HEADS, Job, Sweep

SCRIPTS = {"train_teacher.py": teacher_options, "train_student.py": student_options, HEADS: heads_options}
OURS = {"--gpu_id": "--gpus says where runs go",
        "--overwrite": "it would begin anew what a second start is to resume; delete the run's directory"}
OURS_IN_A_GRID = OURS | dict.fromkeys(("--path_t", "--model", "--model_s", "--distill", "--trial", "-t", "--name"),
                                      "it follows from --pairs, --methods and --trials")
GRID = ("pairs", "methods", "trials", "teacher_flags", "distill_flags")

EPILOG = """\
What follows -- goes to every run, teachers too; flags of a method alone stand behind its name: --methods "kd -a 0.5,
hint --hint_layer 1" (quote values with commas: "dml --peers 'resnet8,resnet20'"). alone: the student by cross-entropy.

The same command again goes on: finished runs are skipped, begun ones resumed. Ctrl-C saves and stops all. The output of
a run is in NAME.log beside its directory. A failing run does not stop the others; the exit status is then 1.

--dry_run prints the runs as --list reads them, to be edited: a line holds the arguments of train_student.py, or the
name of train_teacher.py, train_student.py or train_heads.py and its arguments. A run waits for those above it that make
its --path_t, --path_th or heads. Runs without --name are named after their options. "LABEL: " at the beginning of a
line labels what it makes; @LABEL as a value in a later line is its place:

    t: train_teacher.py --model resnet20
    train_student.py --path_t @t --distill kd --model_s resnet8

--shard I/N divides the runs between N sweeps that share a list and a disk, such as the jobs of an array. Each takes
every N-th run first, then any that no live process has locked, such as those of a sweep that was killed, and ends when
no run is left."""


def main(argv=None):
    opt, common = sweep_options(argv)
    plan = Plan()
    (add_list if opt.list else add_grid)(plan, opt, common)
    sweep = Sweep(plan.jobs, opt.gpus, opt.jobs, opt.shard)
    if opt.dry_run:
        return describe(sweep)
    look_at_data(plan.jobs, others=opt.shard[1] > 1)
    sweep.run()
    return conclude(sweep, opt)


def sweep_options(argv=None):
    """Our own options, and the arguments behind '--', which are for the runs. Raises UsageError."""
    argv = sys.argv[1:] if argv is None else list(map(str, argv))
    split = argv.index("--") if "--" in argv else len(argv)
    parser = cli.Parser(description=__doc__, epilog=EPILOG)
    group = parser.add_argument_group("runs")
    group.add_argument("--pairs", type=pair_list, metavar="T:S,...", help="teachers and students, such as "
                       "resnet20:resnet8; the teacher is trained first, or is the checkpoint or run that T names")
    group.add_argument("--methods", type=method_list, metavar="METHOD,...", help="what to distil by, each with "
                       "flags of its own behind it if need be, or alone")
    group.add_argument("--trials", type=number(int, at_least=1), default=1, metavar="N",
                       help="trials 0 ... N - 1 of each")
    group.add_argument("--teacher_flags", type=split_words, default="", metavar="FLAGS",
                       help="more flags for the teachers, such as --teacher_flags='--epochs 240'")
    group.add_argument("--distill_flags", type=split_words, default="", metavar="FLAGS",
                       help="more flags for all that is distilled, such as --distill_flags=--skip_validation")
    group.add_argument("--list", metavar="FILE", help="a run per line, in place of all the above; # begins a comment; "
                       "-: standard input")
    group = parser.add_argument_group("sweep")
    group.add_argument("--jobs", type=number(int, at_least=1), default=1, metavar="N",
                       help="runs at a time on a device")
    group.add_argument("--gpus", type=gpu_list, default="", metavar="IDS", help="devices, such as 0,1 or cpu; "
                       "default: the first GPU, or the CPU where there is none; runs share the CPU's cores")
    group.add_argument("--shard", type=shard, default="1/1", metavar="I/N", help="this is sweep I of N that share the "
                       "runs and the disk")
    group.add_argument("--dry_run", action="store_true", help="print the runs and start none")
    group.add_argument("--plot", type=cli.picture, metavar="FILE",
                       help="write the learning curves there, as scripts/report.py does")
    group.add_argument("--bars", type=cli.picture, metavar="FILE", help="write a bar chart there")
    group.add_argument("--heads", type=cli.picture, metavar="FILE", help="write the accuracy of the heads of "
                       "train_heads.py by depth there, if there are any")
    try:
        opt = parser.parse_args(argv[:split])
    except UsageError as error:
        hint = " (flags of the runs stand behind --)" if "unknown flag" in str(error) else ""
        raise UsageError(f"{error}{hint}") from error
    if opt.list and any(getattr(opt, key) not in (None, [], 1) for key in GRID):  # 1: of trials
        raise UsageError(f"--list names every run: leave out --{', --'.join(GRID)}")
    if not opt.list and not (opt.pairs and opt.methods):
        raise UsageError("nothing to run: give --pairs and --methods, or --list")
    common = argv[split + 1:]
    ours = "--dry_run", "--jobs", "--gpus", "--shard", "--plot", "--bars", "--heads"
    refuse(common, dict.fromkeys(ours, "it stands before --"), "runs")
    return opt, common


def pair_list(text):
    """An argparse type: 'resnet20:resnet8,save/teachers/NAME:resnet8' -> [('resnet20', 'resnet8'), ...]."""
    pairs = [tuple(part.strip().rsplit(":", 1)) for part in text.split(",")]
    for pair in pairs:
        if len(pair) != 2:
            raise UsageError(f"--pairs: '{pair[0]}' is not TEACHER:STUDENT, such as resnet20:resnet8")
        for name in pair if _is_trained(pair[0]) else pair[1:]:
            if os.sep in name and not from_source(name):
                raise UsageError(f"--pairs: there is no checkpoint {name}")
            check_name(name)
    return pairs


def _is_trained(teacher):
    """Is it a network to be trained, and not the place of one?"""
    return teacher in model_dict or not Path(teacher).exists()


def method_list(text):
    """An argparse type: 'alone,kd -a 0.5' -> [('alone', []), ('kd', ['-a', '0.5'])]."""
    words = groupby(split_words(text, apart=","), key=lambda word: set(word) == {","})
    methods = [list(group) for commas, group in words if not commas]
    for name, *_ in methods:
        if name != "alone":
            get_method(name)
    return [(name, flags) for name, *flags in methods]


def gpu_list(text):
    """An argparse type: '0,1' -> ['0', '1'], each a GPU of this machine, or cpu; '': the run's own choice."""
    devices = ["cpu", *map(str, range(torch.cuda.device_count()))]
    for device in text.split(","):
        if text and device not in devices:
            raise unknown("device", device, devices)
    return text.split(",")


def shard(text):
    """An argparse type: '2/8' -> (2, 8), worker 2 of 8."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard: '{text}' is not I/N, worker I of N from 1/N to N/N, such as 2/8")
    return int(found[1]), int(found[2])


def split_words(text, apart=""):
    """As a shell splits `text`, comments dropped; unquoted characters of `apart` become words of their own."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=apart)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError as error:
        raise UsageError(f"{text.strip()}: {str(error).lower()}") from error


class Plan:
    """The jobs of a sweep, in order."""

    def __init__(self):
        self.jobs = []
        self.at, self.makers = {}, {}  # the job of a directory, and that of a product: absolute path -> Job

    def add(self, script, args, where):
        """The job of `script` with `args`: a new one, or the same one that is there already.

        Raises:
            UsageError: the script would refuse the arguments; what it is to read is neither there nor made by a job
                before; another job, or a run that was begun, has the directory with other options.
        """
        try:
            opt = SCRIPTS[script](args)
            record = self._record(script, opt)
            job = Job(script, args, where, opt, record, self._directory(script, opt, record), self._needs(opt))
            _check_heads(job)
            same = self.at.setdefault(job.directory.resolve(), job)
            if same is not job and not job.is_same(same):
                raise UsageError(f"{job.directory} is for {same.where} already: give another --name or --trial")
            job.check_begun()
        except UsageError as error:
            hint = " (--distill_flags are for what is distilled alone)" if "unknown flag" in str(error) else ""
            raise UsageError(f"{where}: {error}{hint}") from error
        if same is job:
            self.jobs.append(job)
            self.makers[job.product.resolve()] = job
        return same

    def _record(self, script, opt):
        """What is known of a run before it starts. The digits of networks and heads that it reads are of their places,
        as their weights, which the entry scripts go by, are not known yet."""
        data = f"folder-{Path(opt.data_dir).resolve().name}" if opt.dataset == "folder" else opt.dataset
        facts, inputs = {"data": {"name": data}}, {}
        if opt.get("path_th"):
            inputs["th"] = f"{self._network(opt.path_th)}-{_digest(opt.path_th, opt)}"
        if opt.get("path_t"):
            facts["teacher"] = {"arch": self._network(opt.path_t, opt.model_t)}
            inputs["teacher"] = _digest(opt.path_t, opt)
        if opt.get("path_heads"):
            inputs["heads"] = _digest(opt.path_heads, opt)
        kind = {"train_teacher.py": "teacher", HEADS: "heads"}.get(script, "student")
        return RunRecord(kind, dict(opt), opt.given, facts | {"inputs": inputs}, opt.roles)

    def _directory(self, script, opt, record):
        """Where the run will be."""
        if script == HEADS:
            return _folder(opt.path_t) / opt.name
        return Path(opt.save_dir, f"{record.kind}s", record.name())

    def _needs(self, opt):
        """The jobs that make what a run with these options reads, or might: of a teacher's heads, all."""
        paths = [opt.get("path_t"), opt.get("path_th")]
        needs = [self._maker(path) for path in paths if path]
        if "distill" in opt and PATH_HEADS in get_method(opt.distill).options:
            place = Path(opt.path_heads or _folder(opt.path_t)).resolve()
            needs += [job for job in self.jobs if job.script == HEADS
                      and place in (job.product.resolve(), job.directory.parent.resolve())]
        return [job for job in needs if job]

    def _maker(self, path):
        """The job that makes `path`: heads, a run's directory, or a checkpoint in it. None if there is none."""
        path = Path(path).resolve()
        return self.makers.get(path) or self.makers.get(path.parent)

    def _network(self, path, name=None):
        """The name of the network at `path`, which a job makes or which is there. name: what the user says it is."""
        job = self._maker(path)
        known = job.options if job else {"model": _recorded_name(path)}
        name = known.get("model") or known.get("model_s") or name
        if name is None:
            raise UsageError(f"{path} does not tell which network it holds: name it with --model_t")
        return name


def _check_heads(job):
    """Raises UsageError if a method learns from heads that are not there and that no job before makes."""
    reads = get_method(job.options.distill).reads if "distill" in job.options else None
    kind = reads and reads.heads
    made = any(need.script == HEADS for need in job.needs)
    if kind and not made and not find_heads(job.options, kind).is_file():
        raise UsageError(f"{job.options.distill} learns from heads trained on the teacher, which are not there: give a "
                         f"--list with 'train_heads.py --path_t {job.options.path_t} --head_type {kind}' before it")


@cache
def _recorded_name(path):
    return open_checkpoint(path).name


def _folder(path):
    """The directory of a checkpoint, or of a run; neither need be there yet."""
    path = Path(path)
    return path.parent if path.suffix == ".pth" or path.is_file() else path


def _digest(path, opt):
    """Six digits of a place, the same wherever --save_dir is if it is in there."""
    return hashlib.sha256(os.path.relpath(path, opt.save_dir).encode()).hexdigest()[:6]


def add_list(plan, opt, common):
    """The runs of a file, a line each: its flags stand after the common ones, and so override them."""
    name, text = opt.list, sys.stdin.read() if opt.list == "-" else Path(opt.list).read_text(errors="replace")
    labelled = {}  # label -> Job
    for i, line in enumerate(text.splitlines(), 1):
        where = f"{'standard input' if name == '-' else name}:{i}"
        try:
            label, words = split_line(line, labelled)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        if not words:
            continue
        script = "train_student.py" if words[0].startswith("-") else words.pop(0)
        if script not in SCRIPTS:
            raise UsageError(f"{where}: {unknown('script', script, SCRIPTS)}")
        refuse([*common, *words], OURS, where)
        job = plan.add(script, [*common, *words], where)
        if label and labelled.setdefault(label, job) is not job:
            raise UsageError(f"{where}: {label} is the label of {labelled[label].where} already: give another")
    if not plan.jobs:
        raise UsageError(f"{name} holds no run: give one per line, as --dry_run prints them")


def split_line(line, labelled):
    """A line of a list -> its label or None, and its words, each @LABEL replaced by what the job of `labelled` makes.

    Raises UsageError for a label that no line before has, or a missing quotation mark.
    """
    words = split_words(re.sub(r"^\s*python3?\s", "", line))
    label = words.pop(0)[:-1] if words and words[0].endswith(":") else None
    for i, word in enumerate(words):
        flag, at, name = word.rpartition("@")
        if at and (not flag or re.fullmatch(r"--\w+=", flag)):
            if name not in labelled:
                raise UsageError(f"{word}: no line above begins with '{name}:'")
            words[i] = flag + str(labelled[name].product)
    return label, words


def add_grid(plan, opt, common):
    """Teachers, then trial by trial every method on every pair. Flags of a method override the common ones."""
    own = [flag for _, flags in opt.methods for flag in flags]
    refuse([*common, *opt.teacher_flags, *opt.distill_flags, *own], OURS_IN_A_GRID, "in a grid")
    learning = {name for name, _ in opt.methods if name != "alone" and get_method(name).needs_teacher}
    trained = {}
    for teacher, _ in opt.pairs if learning else []:
        if _is_trained(teacher):
            job = plan.add("train_teacher.py", [*common, *opt.teacher_flags, "--model", teacher, "--trial", "0"],
                           f"teacher {teacher}")
            trained[teacher] = str(job.directory)
    for trial, (teacher, student), (name, flags) in product(map(str, range(opt.trials)), opt.pairs, opt.methods):
        where = f"{teacher}:{student} {shlex.join([name, *flags])}"
        if name == "alone":
            plan.add("train_teacher.py", [*common, *flags, "--model", student, "--trial", trial], where)
        else:
            path_t = ["--path_t", trained.get(teacher, teacher)] if name in learning else []
            plan.add("train_student.py", [*common, *opt.distill_flags, *flags, *path_t, "--model_s", student,
                                          "--distill", name, "--trial", trial], where)


def refuse(args, flags, where):
    """Raises UsageError if the arguments hold one of `flags`, {flag: why not}."""
    for flag in (arg.split("=")[0] for arg in cli.underscored(args)):
        if flag in flags:
            raise UsageError(f"{where}: leave out {flag}: {flags[flag]}")


def describe(sweep):
    """--dry_run: the runs as a file for --list, and what would come of them."""
    done = [job for job in sweep.jobs if job.is_finished()]
    print(f"# {len(sweep.jobs)} runs, {len(done)} of them finished; {sweep.slots} at a time, CPU threads of each: "
          f"{sweep.threads}")
    for job in sweep.jobs:
        print(job.line() + ("  # finished" if job in done else ""))


def look_at_data(jobs, others=False):
    """Open every data set that is yet to be trained on: what cannot be opened is refused before anything starts, and
    what has to be downloaded is, once, before several runs ask for it. others: there are sweeps that do so too."""
    keys = ("dataset", "data_dir", "image_size", "holdout", "save_dir")
    unfinished = [job.options for job in jobs if not job.is_finished()]
    for opt in {tuple(getattr(opt, key) for key in keys): opt for opt in unfinished}.values():
        if others:
            Path(opt.save_dir).mkdir(parents=True, exist_ok=True)
        with lock(Path(opt.save_dir, ".data.lock")) if others else nullcontext():
            open_data(opt)


def conclude(sweep, opt):
    """The table over the finished runs, in their order, its pictures, and what failed. The exit status."""
    if sweep.signal:
        states = ["done", "failed", "stopped", "waiting", *(["elsewhere"] if sweep.of("elsewhere") else [])]
        counts = ", ".join(f"{len(sweep.of(state))} {state}" for state in states)
        print(f"stopped by signal {sweep.signal} ({counts}): the same command goes on from here", file=sys.stderr)
        return 128 + sweep.signal
    runs = [run for job in sweep.of("done") for run in find_runs([job.directory])
            if run.name == job.directory.name]  # and not heads in a teacher's directory
    if runs:
        groups = group_runs(runs)
        print(f"\n{table(groups)}", flush=True)
        networks, heads = split_groups(groups)
        pictures = (opt.plot, plot, networks), (opt.bars, bars, networks), (opt.heads, plot_heads, heads)
        for file, draw, drawn in pictures:
            if file and drawn:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                draw(drawn, file)
    failed = sweep.of("failed")
    if failed:
        print(f"\n{len(failed)} of {len(sweep.jobs)} runs failed; the same command tries them again:", file=sys.stderr)
    for job in failed:
        print(f"{job.directory.name}: {job.why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
