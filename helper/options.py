"""The flags of the entry scripts, with RepDistiller's, HeadSharingKD's and SimKD's names."""
from dataset import dataset_dict
from distiller_zoo import get_method, methods
from distiller_zoo.base import Weights
from distiller_zoo.options import SWITCH, TH_ADAPTER, number
from distiller_zoo.teacher_head import CHOICE, DELTA, SharedHead
from distiller_zoo.tuned_heads import HEAD_STAGES, heads_name
from errors import UsageError
from helper import recipes
from helper.cli import Parser, epoch_list, file_name, underscored
from models import check_name, model_dict
from models.heads import HEAD_TYPES

# Options that change where a run is, how it is shown or how fast it goes, but not which run it is: everything else
# is part of a run's name when it is not at its default, and must be the same when the run is resumed.
INCIDENTAL = {"data_dir", "save_dir", "num_workers", "gpu_id", "print_freq", "save_freq", "overwrite",
              "skip_validation", "path_t", "model_t", "path_th", "path_heads", "name"}
WEIGHTS = ("gamma", "alpha", "beta", "delta", "kd_T")


def teacher_options(argv=None):
    """Options of train_teacher.py. Raises UsageError."""
    parser = Parser(description="Train a network by cross-entropy: a teacher, or a student alone.",
                    epilog=recipes.describe_recipes())
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="resnet110", help=f"architecture: {_names(model_dict)}, or torchvision/NAME")
    group.add_argument("--path_th", metavar="FILE", help="SH-KD: a network, such as the student to be, whose "
                       "classifier this one gets, frozen")
    group.add_argument(*TH_ADAPTER.flags, **TH_ADAPTER.settings)
    _add_training(parser)
    _add_data(parser)
    _add_machine(parser)
    _add_fast_path(parser, teacher=False)
    _add_run(parser, trial="0")
    parser.set_defaults(th=None)  # the name of what --path_th shares
    opt = _finish(parser, argv)
    if "th_adapter" in opt.named and opt.path_th is None:
        raise UsageError("--th_adapter is for the classifier of --path_th: give both, or leave it out")
    return opt


def student_options(argv=None):
    """Options of train_student.py, weights not given filled in from the method. Raises UsageError."""
    parser = Parser(description="Distil a student from a trained teacher.",
                    epilog=_weights_table() + "\n\n" + recipes.describe_recipes())
    group = parser.add_argument_group("networks")
    _add_teacher(group)
    group.add_argument("--model_s", default="resnet8", help="the student's architecture: as train_teacher.py's --model")
    group.add_argument("--copy_head", **SWITCH, help="1: the student's only classifier is the teacher's, frozen")
    group.add_argument("--do_init_s_from_th", **SWITCH, help="1: the student's classifier starts as the teacher's")

    group = parser.add_argument_group("distillation", "loss = gamma * CE + alpha * KL + beta * method; weights not "
                                      "given are the method's published ones, listed below")
    group.add_argument("--distill", default="kd", metavar="METHOD", help=f"method: {_names(methods)}; METHOD+th adds "
                       "the teacher's classifier on the student")
    weight = number(float, at_least=0)
    group.add_argument("-r", "--gamma", "-c", "--cls", dest="gamma", type=weight, help="weight of cross-entropy")
    group.add_argument("-a", "--alpha", "--div", dest="alpha", type=weight, help="weight of the KL on the logits")
    group.add_argument("-b", "--beta", dest="beta", type=weight, help="weight of the method's own loss")
    group.add_argument("--delta", type=weight, help="weight of the teacher's head in METHOD+th")
    group.add_argument("-d", dest="d", type=weight, help="the same as --delta with kdeth and crdth; with others "
                       "what SimKD's --div (alpha) is for them")
    group.add_argument("--kd_T", type=number(float, above=0), help="temperature of the KL on the logits, and of dih's, "
                       "mhkd's and dml's; tofd has --tofd_t instead; default: the recipe's, or 4, or as listed")
    _add_method_options(group)
    _add_training(parser)
    _add_data(parser)
    _add_machine(parser)
    _add_fast_path(parser)
    _add_run(parser, trial="1")
    opt = _finish(parser, argv)
    needs_teacher = get_method(opt.distill).needs_teacher
    if needs_teacher and opt.path_t is None:
        raise UsageError("--path_t is missing: name the teacher's checkpoint, or its run's directory")
    if opt.path_t and not needs_teacher:
        raise UsageError(f"--distill {opt.distill} learns without a teacher: leave out --path_t")
    opt.heads = None  # the name of the heads that teach, for the methods that have such
    if opt.copy_head and opt.do_init_s_from_th:
        raise UsageError("--copy_head freezes what --do_init_s_from_th lets train: give one of them")
    if (opt.copy_head or opt.do_init_s_from_th) and not needs_teacher:
        raise UsageError(f"--distill {opt.distill} learns without a teacher, whose classifier "
                         f"{'--copy_head' if opt.copy_head else '--do_init_s_from_th'} would take: leave that out")
    _fill_in_weights(opt)
    return opt


def heads_options(argv=None):
    """Options of train_heads.py. Raises UsageError."""
    parser = Parser(description="Tune intermediate classifiers on a frozen teacher.", epilog=recipes.describe_recipes())
    group = parser.add_argument_group("teacher")
    _add_teacher(group)
    group = parser.add_argument_group("heads")
    group.add_argument("--head_type", choices=list(HEAD_TYPES), default="flat", help="flat: one linear layer "
                       "(dih); conv: two convolutions (mhkd); sepconv: separable ones to the last stage's width (tofd)")
    group.add_argument(*HEAD_STAGES.flags, **HEAD_STAGES.settings)
    group.add_argument("--head_pool", type=number(int, at_least=1), metavar="N", help="flat: average each map to N x N "
                       "first, which takes (side/N)^2 times fewer parameters; default: do not")
    _add_training(parser)
    _add_data(parser)
    _add_machine(parser)
    _add_fast_path(parser)
    _add_run(parser, trial="0", save_dir="where decoded images are cached; heads go beside the teacher")
    parser.set_defaults(save_freq=0)  # the file of heads is what counts
    opt = _finish(parser, argv)
    opt.name = opt.name or heads_name(opt.head_type)
    if opt.path_t is None:
        raise UsageError("--path_t is missing: name the teacher's checkpoint, or its run's directory")
    if opt.head_pool and opt.head_type != "flat":
        raise UsageError(f"--head_pool is for flat heads: leave it out with --head_type {opt.head_type}")
    return opt


def evaluate_options(argv=None):
    """Options of evaluate.py. Raises UsageError."""
    parser = Parser(description="Score a checkpoint: accuracy, calibration, and agreement with a teacher.")
    group = parser.add_argument_group("networks")
    group.add_argument("--path", metavar="FILE", help="the checkpoint, or the directory of its run")
    group.add_argument("--model", metavar="NAME", help="its architecture, when neither it nor its path says so")
    for option in CHOICE:
        group.add_argument(*option.flags, **option.settings | {
            "default": None, "help": f"{option.settings['help']}; default: as its run was evaluated"})
    group.add_argument("--path_t", metavar="FILE", help="a teacher to compare with")
    group.add_argument("--model_t", metavar="NAME", help="the teacher's architecture, likewise")
    group.add_argument("--json", metavar="FILE", help="write the scores there too")
    group = _add_data(parser)
    parser.set_defaults(dataset=None, data_dir=None, image_size=None, holdout=None)  # the checkpoint's own
    group.add_argument("--save_dir", default="save", help="where decoded folders are cached")
    group.add_argument("--split", choices=["test", "val", "train"], default="test", help="images to score")
    group.add_argument("--batch_size", type=number(int, at_least=1), default=250, help="images per forward pass")
    _add_machine(parser)
    opt = parser.parse_args(argv)
    if opt.path is None:
        raise UsageError("--path is missing: name the checkpoint to score, or its run's directory")
    return opt


def compare_options(argv=None):
    """Options of compare_heads.py. Raises UsageError."""
    parser = Parser(description="Two classifiers side by side: their rows, biases, class similarities and predictions.")
    group = parser.add_argument_group("networks")
    group.add_argument("path_a", metavar="A", help="a checkpoint, or the directory of its run")
    group.add_argument("path_b", metavar="B", help="the one to compare it with")
    group.add_argument("--model_a", metavar="NAME", help="A's architecture, when neither it nor its path says so")
    group.add_argument("--model_b", metavar="NAME", help="B's architecture, likewise")
    group.add_argument("--json", metavar="FILE", help="write the numbers there too")
    group.add_argument("--plot", metavar="FILE", help="write the picture there, as .png, .pdf or .svg; default: "
                       "heads_A_B.png in --save_dir, after the names of the runs or files")
    group = _add_data(parser)
    group.description = "default: the data set that A, or else B, was trained on; --dataset none: no predictions"
    parser.set_defaults(dataset=None, data_dir=None, image_size=None, holdout=None)  # the checkpoint's own
    group.add_argument("--save_dir", default="save", help="where the picture goes and decoded folders are cached")
    group.add_argument("--split", choices=["test", "val", "train"], default="test", help="images to classify")
    group.add_argument("--batch_size", type=number(int, at_least=1), default=250, help="images per forward pass")
    _add_machine(parser)
    opt = parser.parse_args(argv)
    for name in filter(None, (opt.model_a, opt.model_b)):
        check_name(name)
    return opt


def _add_teacher(group):
    group.add_argument("--path_t", metavar="FILE", help="the teacher's checkpoint, or the directory of its run")
    group.add_argument("--model_t", metavar="NAME", help="the teacher's architecture, when neither its checkpoint nor "
                       "its path says so")
    group.add_argument("--skip_validation", action="store_true", help="do not measure the teacher's accuracy first")


def _add_training(parser):
    group = parser.add_argument_group("training")
    group.add_argument("--recipe", default=recipes.DEFAULT, help="where this group's defaults come from, and the "
                       f"weights of some methods: {_names(recipes.RECIPES)} (listed below)")
    group.add_argument("--epochs", type=number(int, at_least=1), help="passes over the data")
    group.add_argument("--batch_size", type=number(int, at_least=1), help="images per step")
    group.add_argument("--learning_rate", type=number(float, above=0),
                       help="default: the recipe's, or the network's published one, 0.05 or 0.01 (README's table)")
    group.add_argument("--lr_decay_epochs", type=epoch_list, metavar="E,E,...",
                       help="epochs after which the learning rate falls; default: the recipe's (150,180,210 of 240), "
                       "and these in proportion for another --epochs")
    group.add_argument("--lr_decay_rate", type=number(float, above=0), help="factor of each fall")
    group.add_argument("--weight_decay", type=number(float, at_least=0), help="of all parameters")
    group.add_argument("--momentum", type=number(float, at_least=0), help="of SGD")
    group.add_argument("--nesterov", **SWITCH, help="1: Nesterov's momentum")
    group.add_argument("--padding", choices=["constant", "reflect"], help="what is around an image before its random "
                       "crop: black, or its mirror image")


def _add_data(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default="cifar100", help=f"{_names(dataset_dict)}")
    group.add_argument("--data_dir", default="data", help="where data sets are; for 'folder', the tree itself; for "
                       "'tiny_imagenet' either")
    group.add_argument("--image_size", type=number(int, at_least=8), help="side in pixels that images of a folder or "
                       "tiny_imagenet are resized and cropped to; default: their own")
    group.add_argument("--holdout", type=number(int, at_least=0), default=0, metavar="N",
                       help="take N training images per class as the validation set that chooses the best epoch")
    group.add_argument("--loader", choices=["auto", "device", "torch"], default="auto",
                       help="device: the whole set on the training device; torch: torchvision transforms in workers; "
                       "auto: device where it fits")
    group.add_argument("--num_workers", type=number(int, at_least=0), default=2, help="processes of the torch loader")
    return group


def _add_machine(parser):
    group = parser.add_argument_group("machine")
    group.add_argument("--gpu_id", default="", metavar="IDS", help="such as 0, 0,1 (DataParallel) or cpu; default: the "
                       "first GPU, or the CPU where there is none")
    group.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto",
                       help="of the networks, losses are float32; auto: bf16 where the hardware has it")


def _add_fast_path(parser, teacher=True):
    group = parser.add_argument_group("fast path")
    group.add_argument("--compile", choices=["auto", "on", "off"], default="auto", help="networks and losses by "
                       "torch.compile; auto: in runs that are long enough to earn its time back")
    if teacher:
        group.add_argument("--plain_teacher", action="store_true", help="run the teacher as it is, rather than with "
                           "its BatchNorm folded into convolutions and its weights in the networks' precision")


def _add_run(parser, trial, save_dir="where runs go"):
    group = parser.add_argument_group("run")
    group.add_argument("-t", "--trial", type=file_name, default=trial, help="run id, the last part of its name")
    group.add_argument("--name", type=file_name, help="name of the run's directory; default: made from its options")
    group.add_argument("--seed", type=number(int, at_least=0, below=2**63), help="of every random generator; default: "
                       "the trial, when it is a number, else 0")
    group.add_argument("--deterministic", action="store_true", help="refuse GPU kernels that are not repeatable")
    group.add_argument("--save_dir", default="save", help=save_dir)
    group.add_argument("--overwrite", action="store_true", help="start an existing run anew instead of resuming it")
    group.add_argument("--save_freq", type=number(int, at_least=0), default=40, metavar="N",
                       help="keep ckpt_epoch_E.pth every N epochs; 0: never")
    group.add_argument("--print_freq", type=number(int, at_least=1), default=100, metavar="N",
                       help="steps between two readings of the losses")


def _finish(parser, argv):
    """Parse; note in opt.named what was set by hand and belongs in the run's name; fill in what follows from it."""
    decays, published_epochs = _set_recipe(parser, argv)
    opt = parser.parse_args(argv)
    if hasattr(opt, "distill"):
        _check_method_options(opt, parser)
        _merge_synonyms(opt)
    if opt.nesterov and not opt.momentum:
        raise UsageError("--nesterov needs a momentum: add --nesterov 0")
    shown = {action.dest for action in parser._actions} - INCIDENTAL
    opt.named = {key: value for key, value in vars(opt).items()
                 if key in shown and value is not None and value != parser.get_default(key)}
    for name in ("model", "model_s", "model_t"):
        if getattr(opt, name, None) is not None:
            check_name(getattr(opt, name))
    if opt.seed is None:
        opt.seed = int(opt.trial) % 2**63 if opt.trial.isdecimal() else 0
    if opt.lr_decay_epochs is None:
        scaled = (round(epoch * opt.epochs / published_epochs) for epoch in decays)
        opt.lr_decay_epochs = sorted({epoch for epoch in scaled if epoch > 0})
    return opt


def _set_recipe(parser, argv):
    """Makes the recipe's settings the parser's defaults. Returns its decays and the epochs that they belong to."""
    first = Parser(add_help=False)
    first.add_argument("--recipe", default=recipes.DEFAULT)
    first.add_argument("--distill", default=parser.get_default("distill"))
    chosen, _ = first.parse_known_args(underscored(argv))
    settings = recipes.recipe_settings(chosen.recipe, chosen.distill)
    flags = {action.dest for action in parser._actions} - set(WEIGHTS)  # see _fill_in_weights
    parser.set_defaults(**{key: value for key, value in settings.items() if key in flags})
    return settings["decays"], settings["epochs"]


def _add_method_options(group):
    for option in _method_options():
        group.add_argument(*option.flags, **option.settings)


def _method_options():
    """The flags that methods declare; one that several share is declared alike by each and here once."""
    options = []
    for method in methods.values():
        options += [option for option in method.options if option not in options]
    return options


def _check_method_options(opt, parser):
    """Raises UsageError for a flag of other methods that was set by hand: the run would be named after what it does
    not do."""
    own = get_method(opt.distill).options
    for option in _method_options():
        flag = next(flag for flag in option.flags if flag.startswith("--"))
        set_by_hand = getattr(opt, flag[2:]) != parser.get_default(flag[2:])
        if not set_by_hand or option in own or (option == TH_ADAPTER and opt.copy_head):
            continue
        takers = [name for name, method in methods.items() if option in method.options]
        if option in SharedHead.options:
            takers.append("METHOD+th")
        if option == TH_ADAPTER:
            takers.append("any with --copy_head")
        raise UsageError(f"{flag} does nothing for --distill {opt.distill}: leave it out (it is for "
                         f"{', '.join(takers)})")


def _merge_synonyms(opt):
    """-d, --beta and --alpha are the weights that the method says they are: see Method.synonyms."""
    method = get_method(opt.distill)
    for given, weight in method.synonyms.items():
        value = getattr(opt, given)
        if value is None:
            continue
        if getattr(opt, weight) is not None:
            raise UsageError(f"-{given[0]} and --{weight} are the same weight for --distill {opt.distill}: give one")
        setattr(opt, weight, value)
        setattr(opt, given, None)
    vars(opt).pop("d")
    if opt.delta is not None and not method.has_weighted_terms:
        raise UsageError(f"--delta weighs the teacher's head, and --distill {opt.distill} has none: use "
                         f"{opt.distill}+th")


def _fill_in_weights(opt):
    """Weights and temperature that were not given: the recipe's for the method, or the method's published ones.

    They are not the parser's defaults, because -d and others stand for one weight or another by the method.
    """
    defaults = get_method(opt.distill).weights._asdict() | recipes.recipe_settings(opt.recipe, opt.distill)
    for name in WEIGHTS:
        if getattr(opt, name) is None:
            setattr(opt, name, defaults[name])
    if opt.kd_T == defaults["kd_T"]:
        opt.named.pop("kd_T", None)  # the same run, whether the default is spelled out or not


def _weights_table():
    rows = []
    for name, method in methods.items():
        w = method.weights
        more = f" --delta {w.delta:g}" if w.delta else ""
        if w.kd_T != Weights._field_defaults["kd_T"]:
            more += f" --kd_T {w.kd_T:g}"
        rows.append(f"  {name:12} -r {w.gamma:g} -a {w.alpha:g} -b {w.beta:g}{more}   {w.source}")
    return f"weights by method; METHOD+th: the method's, and --delta {DELTA}:\n" + "\n".join(rows)


def _names(registry):
    return ", ".join(registry)
