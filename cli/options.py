"""The flags of the entry scripts, with RepDistiller's, HeadSharingKD's and SimKD's names."""
import argparse

from cli import recipes
from cli.parser import Parser, add, add_option, epoch_list, file_name, underscored
from dataset import dataset_dict
from distiller_zoo import get_method, methods
from distiller_zoo.method import LossWeights
from distiller_zoo.modifiers import modifiers
from distiller_zoo.modifiers.teacher_head import CHOICE
from distiller_zoo.options import HEAD_STAGES, TH_ADAPTER
from errors import UsageError
from flags import SWITCH, Options, Role, number
from helper.optim import OPTIMIZERS, SCHEDULES
from models import check_name, default_learning_rate, model_dict
from models.heads import HEAD_TYPES
from models.tuned import heads_name

WEIGHTS = ("gamma", "alpha", "beta", "delta", "kd_T")


def teacher_options(argv=None):
    """Options of train_teacher.py. Raises UsageError."""
    parser = Parser(description="Train a network by cross-entropy: a teacher, or a student alone.",
                    epilog=recipes.describe_recipes())
    group = parser.add_argument_group("network")
    add(group, "--model", default="resnet110", help=f"architecture: {_names(model_dict)}, or torchvision/NAME")
    add(group, "--path_th", role=Role.INPUT, metavar="FILE", help="SH-KD: a network, such as the student to be, whose "
        "classifier this one gets, frozen")
    add_option(group, TH_ADAPTER)
    _add_training(parser)
    _add_data(parser)
    _add_machine(parser)
    _add_fast_path(parser, teacher=False)
    _add_run(parser, trial="0")
    opt = _finish(parser, argv)
    if "th_adapter" in opt.given and opt.path_th is None:
        raise UsageError("--th_adapter is for the classifier of --path_th: give both, or leave it out")
    return opt


def student_options(argv=None):
    """Options of train_student.py, weights not given filled in from the method. Raises UsageError."""
    parser = Parser(description="Distil a student from a trained teacher.",
                    epilog=_weights_table() + "\n\n" + recipes.describe_recipes())
    group = parser.add_argument_group("networks")
    _add_teacher(group)
    add(group, "--model_s", default="resnet8", help="the student's architecture: as train_teacher.py's --model")
    add(group, "--copy_head", **SWITCH, help="1: the student's only classifier is the teacher's, frozen")
    add(group, "--do_init_s_from_th", **SWITCH, help="1: the student's classifier starts as the teacher's")

    group = parser.add_argument_group("distillation", "loss = gamma * CE + alpha * KL + beta * method; weights not "
                                      "given are the method's published ones, listed below")
    add(group, "--distill", default="kd", metavar="METHOD", help=f"method: {_names(methods)}; METHOD+NAME modifies "
        f"one: {_names(modifiers)}, in any order")
    weight = number(float, at_least=0)
    add(group, "-r", "--gamma", "-c", "--cls", dest="gamma", type=weight, help="weight of cross-entropy")
    add(group, "-a", "--alpha", "--div", dest="alpha", type=weight, help="weight of the KL on the logits")
    add(group, "-b", "--beta", dest="beta", type=weight, help="weight of the method's own loss")
    add(group, "--delta", type=weight, help="weight of the teacher's head in METHOD+th")
    add(group, "-d", dest="d", type=weight, help="the same as --delta with kdeth and crdth; with others what SimKD's "
        "--div (alpha) is for them")
    add(group, "--kd_T", type=number(float, above=0), help="temperature of the KL on the logits, and of dih's, mhkd's "
        "and dml's; tofd has --tofd_t instead; default: the recipe's, or 4, or as listed")
    _add_method_options(group, parser, argv)
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
    if opt.copy_head and opt.do_init_s_from_th:
        raise UsageError("--copy_head freezes what --do_init_s_from_th lets train: give one of them")
    if (opt.copy_head or opt.do_init_s_from_th) and not needs_teacher:
        raise UsageError(f"--distill {opt.distill} learns without a teacher, whose classifier "
                         f"{'--copy_head' if opt.copy_head else '--do_init_s_from_th'} would take: leave that out")
    return opt


def heads_options(argv=None):
    """Options of train_heads.py. Raises UsageError."""
    parser = Parser(description="Train intermediate classifiers on a frozen teacher.",
                    epilog=recipes.describe_recipes())
    group = parser.add_argument_group("teacher")
    _add_teacher(group)
    group = parser.add_argument_group("heads")
    add(group, "--head_type", choices=list(HEAD_TYPES), default="flat",
        help="flat: one linear layer (dih); conv: two convolutions (mhkd); sepconv: separable ones to the last "
        "stage's width (tofd)")
    add_option(group, HEAD_STAGES)
    add(group, "--head_pool", type=number(int, at_least=1), metavar="N",
        help="flat: average each map to N x N first, which takes (side/N)^2 times fewer parameters; default: do not")
    _add_training(parser)
    _add_data(parser)
    _add_machine(parser)
    _add_fast_path(parser)
    _add_run(parser, trial="0", save_dir="where decoded images are cached; heads go beside the teacher")
    parser.set_defaults(save_freq=0)  # the file of heads is what counts
    opt = _finish(parser, argv)
    opt = opt.but(name=opt.name or heads_name(opt.head_type))
    if opt.path_t is None:
        raise UsageError("--path_t is missing: name the teacher's checkpoint, or its run's directory")
    if opt.ema_decay:
        raise UsageError("--ema_decay is for networks: leave it out, each head is kept as of its best epoch")
    if opt.head_pool and opt.head_type != "flat":
        raise UsageError(f"--head_pool is for flat heads: leave it out with --head_type {opt.head_type}")
    return opt


def evaluate_options(argv=None):
    """Options of evaluate.py. Raises UsageError."""
    parser = Parser(description="Score a checkpoint: accuracy, calibration, and agreement with a teacher.")
    group = parser.add_argument_group("networks")
    add(group, "--path", metavar="FILE", help="the checkpoint, or the directory of its run")
    add(group, "--model", metavar="NAME", help="its architecture, when neither it nor its path says so")
    for option in CHOICE:
        add_option(group, option, default=None, help=f"{option.settings['help']}; default: as its run was evaluated")
    add(group, "--path_t", role=Role.INPUT, metavar="FILE", help="a teacher to compare with")
    add(group, "--model_t", role=Role.INPUT, metavar="NAME", help="the teacher's architecture, when neither its "
        "file nor its path says so")
    add(group, "--json", metavar="FILE", help="write the scores there too")
    _add_scored_data(parser, "where decoded folders are cached")
    opt = Options(vars(parser.parse_args(argv)))
    if opt.path is None:
        raise UsageError("--path is missing: name the checkpoint to score, or its run's directory")
    return opt


def compare_options(argv=None):
    """Options of compare_heads.py. Raises UsageError."""
    parser = Parser(description="Two classifiers side by side: their rows, biases, class similarities and predictions.")
    group = parser.add_argument_group("networks")
    add(group, "path_a", metavar="A", help="a checkpoint, or the directory of its run")
    add(group, "path_b", metavar="B", help="the one to compare it with")
    add(group, "--model_a", metavar="NAME", help="A's architecture, when neither it nor its path says so")
    add(group, "--model_b", metavar="NAME", help="B's architecture, when neither its file nor path says so")
    add(group, "--json", metavar="FILE", help="write the numbers there too")
    add(group, "--plot", metavar="FILE", help="write the picture there, as .png, .pdf or .svg; default: heads_A_B.png "
        "in --save_dir, after the names of the runs or files")
    group = _add_scored_data(parser, "where the picture goes and decoded folders are cached")
    group.description = "default: the data set that A, or else B, was trained on; --dataset none: no predictions"
    opt = Options(vars(parser.parse_args(argv)))
    for name in filter(None, (opt.model_a, opt.model_b)):
        check_name(name)
    return opt


def _add_teacher(group):
    add(group, "--path_t", role=Role.INPUT, metavar="FILE", help="the teacher's checkpoint, or the directory of its "
        "run")
    add(group, "--model_t", role=Role.INPUT, metavar="NAME", help="the teacher's architecture, when neither its "
        "checkpoint nor its path says so")
    add(group, "--skip_validation", role=Role.DISPLAY, action="store_true",
        help="do not measure the teacher's accuracy first")


def _add_training(parser):
    group = parser.add_argument_group("training")
    add(group, "--recipe", default=recipes.DEFAULT, help="where this group's defaults come from, and the weights of "
        f"some methods: {_names(recipes.RECIPES)} (listed below)")
    add(group, "--epochs", type=number(int, at_least=1), help="passes over the data")
    add(group, "--batch_size", type=number(int, at_least=1), help="images per step")
    add(group, "--learning_rate", type=number(float, above=0), help="default: the recipe's, or the network's "
        "published one, 0.05 or 0.01 (docs/networks.md)")
    add(group, "--lr_schedule", choices=list(SCHEDULES), default="step",
        help="how the learning rate falls: step by step, or from every step to the next to --lr_min, like half a "
        "cosine or like (1 - done)^lr_power")
    add(group, "--lr_decay_epochs", type=epoch_list, metavar="E,E,...",
        help="epochs after which the learning rate falls; default: the recipe's (150,180,210 of 240), and these in "
        "proportion for another --epochs")
    add(group, "--lr_decay_rate", type=number(float, above=0), help="factor of each fall")
    add(group, "--lr_min", type=number(float, at_least=0), default=0.0,
        help="cosine, polynomial: the last learning rate")
    add(group, "--lr_power", type=number(float, above=0), default=2.0, help="polynomial: its power")
    add(group, "--lr_warmup_epochs", type=number(float, at_least=0), default=0.0, metavar="N",
        help="epochs over which the learning rate first rises, by the step")
    add(group, "--ema_decay", type=number(float, at_least=0, below=1), default=0.0, metavar="D",
        help="evaluate and keep a moving average of the weights: after each step D of it and 1 - D of them; 0: do not")
    add(group, "--weight_decay", type=number(float, at_least=0), help="of all parameters")
    add(group, "--optimizer", choices=list(OPTIMIZERS), default="sgd", help="sgd, or adamw (betas 0.9, 0.999)")
    add(group, "--momentum", type=number(float, at_least=0), help="of SGD")
    add(group, "--nesterov", **SWITCH, help="1: Nesterov's momentum")
    add(group, "--padding", choices=["constant", "reflect"], help="what is around an image before its random crop: "
        "black, or its mirror image")


def _add_data(parser):
    group = parser.add_argument_group("data")
    add(group, "--dataset", default="cifar100", help=f"{_names(dataset_dict)}")
    add(group, "--data_dir", role=Role.PLACE, default="data", help="where data sets are; for 'folder', the tree "
        "itself; for 'tiny_imagenet' either")
    add(group, "--image_size", type=number(int, at_least=8), help="side in pixels that images of a folder or "
        "tiny_imagenet are resized and cropped to; default: their own")
    add(group, "--holdout", type=number(int, at_least=0), default=0, metavar="N",
        help="take N training images per class as the validation set that chooses the best epoch")
    add(group, "--loader", choices=["auto", "device", "torch"], default="auto",
        help="device: the whole set on the training device; torch: torchvision transforms in workers; auto: device "
        "where it fits")
    add(group, "--num_workers", role=Role.PLACE, type=number(int, at_least=0), default=2,
        help="processes of the torch loader")
    return group


def _add_scored_data(parser, save_dir):
    """The flags of the images that trained networks are run on, and of the machine. Returns the data's group.

    The data set is the checkpoint's own unless it is named. save_dir: the help of that flag.
    """
    group = _add_data(parser)
    parser.set_defaults(dataset=None, data_dir=None, image_size=None, holdout=None)
    add(group, "--save_dir", role=Role.PLACE, default="save", help=save_dir)
    add(group, "--split", choices=["test", "val", "train"], default="test", help="images to run on")
    add(group, "--batch_size", type=number(int, at_least=1), default=250, help="images per forward pass")
    _add_machine(parser)
    return group


def _add_machine(parser):
    group = parser.add_argument_group("machine")
    add(group, "--gpu_id", role=Role.PLACE, default="", metavar="IDS", help="such as 0, 0,1 (DataParallel) or cpu; "
        "default: the first GPU, or the CPU where there is none")
    add(group, "--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto",
        help="of the networks, losses are float32; auto: bf16 where the hardware has it")


def _add_fast_path(parser, teacher=True):
    group = parser.add_argument_group("fast path")
    add(group, "--compile", choices=["auto", "on", "off"], default="auto",
        help="networks and losses by torch.compile; auto: in runs that are long enough to earn its time back")
    if teacher:
        add(group, "--plain_teacher", action="store_true", help="run the teacher as it is, rather than with its "
            "BatchNorm folded into convolutions and its weights in the networks' precision")


def _add_run(parser, trial, save_dir="where runs go"):
    group = parser.add_argument_group("run")
    add(group, "-t", "--trial", type=file_name, default=trial, help="run id, the last part of its name")
    add(group, "--name", role=Role.PLACE, type=file_name, help="name of the run's directory; default: made from its "
        "options")
    add(group, "--seed", type=number(int, at_least=0, below=2**63), help="of every random generator; default: the "
        "trial, when it is a number, else 0")
    add(group, "--deterministic", action="store_true", help="refuse GPU kernels that are not repeatable")
    add(group, "--save_dir", role=Role.PLACE, default="save", help=save_dir)
    add(group, "--overwrite", role=Role.DISPLAY, action="store_true", help="start an existing run anew instead of "
        "resuming it")
    add(group, "--save_freq", role=Role.DISPLAY, type=number(int, at_least=0), default=40, metavar="N",
        help="keep ckpt_epoch_E.pth every N epochs; 0: never")
    add(group, "--print_freq", role=Role.DISPLAY, type=number(int, at_least=1), default=100, metavar="N",
        help="steps between two readings of the losses")


def _finish(parser, argv):
    """Parse, and settle all that follows from the flags alone. Returns Options."""
    decays, published_epochs = _set_recipe(parser, argv)
    values = vars(parser.parse_args(argv))
    if "distill" in values:
        values = _settle_method(values, parser)
    if values["nesterov"] and not values["momentum"]:
        raise UsageError("--nesterov needs a momentum: add --nesterov 0")
    for name in ("model", "model_s", "model_t"):
        if values.get(name) is not None:
            check_name(values[name])
    defaults = {key: parser.get_default(key) for key in values} | _weights(values) | {
        "seed": int(values["trial"]) % 2**63 if values["trial"].isdecimal() else 0,
        "lr_decay_epochs": sorted({epoch for epoch in (round(e * values["epochs"] / published_epochs) for e in decays)
                                   if epoch > 0})}
    network = values.get("model_s") or values.get("model")
    if network and defaults["learning_rate"] is None:
        defaults["learning_rate"] = default_learning_rate(network)
    roles = {action.dest: action.role for action in parser._actions if hasattr(action, "role")}
    given = [key for key, value in values.items()
             if value is not None and value != defaults[key] and roles[key] is Role.IDENTITY]
    settled = {key: defaults[key] if value is None else value for key, value in values.items()}
    return Options(settled, given, roles)


def _settle_method(values, parser):
    """`values` with the method's canonical name, and each weight under the name that it has."""
    method = get_method(values["distill"])
    values = values | {"distill": method.name}
    _check_method_options(method, values, parser)
    for flag, weight in method.weights.means.items():
        value = values[flag]
        if value is None:
            continue
        if values[weight] is not None:
            raise UsageError(f"-{flag[0]} and --{weight} are the same weight for --distill {method.name}: give one")
        values |= {weight: value, flag: None}
    if values["delta"] is not None and "th" not in method.modifiers:
        raise UsageError(f"--delta weighs the teacher's head, and --distill {method.name} has none: use "
                         f"{method.name}+th")
    return {key: value for key, value in values.items() if key != "d"}


def _weights(values):
    """{name: default} of weights and temperature: the recipe's for the method, or the method's published ones.

    They are not the parser's defaults, because -d and others stand for one weight or another by the method.
    """
    if "distill" not in values:
        return {}
    method = get_method(values["distill"])
    defaults = method.weights._asdict() | recipes.recipe_settings(values["recipe"], values["distill"])
    return {name: defaults[name] for name in WEIGHTS}


def _set_recipe(parser, argv):
    """Makes the recipe's settings the parser's defaults. Returns its decays and the epochs that they belong to."""
    first = Parser(add_help=False)
    first.add_argument("--recipe", default=recipes.DEFAULT)
    first.add_argument("--distill", default=parser.get_default("distill"))
    chosen, _ = first.parse_known_args(underscored(argv))
    settings = recipes.recipe_settings(chosen.recipe, chosen.distill)
    flags = {action.dest for action in parser._actions} - set(WEIGHTS)  # see _weights
    parser.set_defaults(**{key: value for key, value in settings.items() if key in flags})
    return settings["decays"], settings["epochs"]


def _add_method_options(group, parser, argv):
    """The flags of all methods. --help shows those of the --distill that is given beside it, and none without one."""
    first = Parser(add_help=False)
    first.add_argument("--distill", default=None)
    named = first.parse_known_args(underscored(argv))[0].distill
    shown = get_method(named).options if named and _asks_for_help(argv) else ()
    for option in _method_options():
        add_option(group, option, **({} if option in shown else {"help": argparse.SUPPRESS}))
    group.description += "; --help --distill METHOD shows that method's own flags too"


def _asks_for_help(argv):
    return {"-h", "--help"} & set(underscored(argv))


def _method_options():
    """The flags that methods and modifiers declare; one that several share is declared alike by each and here once."""
    declared = [option for part in (*methods.values(), *modifiers.values()) for option in part.options]
    return list({option.name: option for option in declared}.values())


def _check_method_options(method, values, parser):
    """Raises UsageError for a flag of other methods that was set by hand: the run would be named after what it does
    not do."""
    own = {option.name for option in method.options}
    for option in _method_options():
        set_by_hand = values[option.name] != parser.get_default(option.name)
        if not set_by_hand or option.name in own or (option == TH_ADAPTER and values["copy_head"]):
            continue
        takers = [name for name, taker in methods.items() if option in taker.options]
        takers += [f"METHOD+{name}" for name, taker in modifiers.items() if option in taker.options]
        if option == TH_ADAPTER:
            takers.append("any with --copy_head")
        raise UsageError(f"--{option.name} does nothing for --distill {method.name}: leave it out (it is for "
                         f"{', '.join(takers)})")


def _weights_table():
    rows = []
    for name, method in methods.items():
        w = method.weights
        more = f" --delta {w.delta:g}" if w.delta else ""
        if w.kd_T != LossWeights._field_defaults["kd_T"]:
            more += f" --kd_T {w.kd_T:g}"
        rows.append(f"  {name:12} -r {w.gamma:g} -a {w.alpha:g} -b {w.beta:g}{more}   {w.source}")
    added = [f"METHOD+{name}: {_weights_of(modifier)}" for name, modifier in modifiers.items()]
    return "weights by method:\n" + "\n".join(rows) + "\n" + "\n".join(f"  {line}" for line in added)


def _weights_of(modifier):
    """What a modifier changes of kd's weights, as text."""
    kd = methods["kd"].weights
    changed = [f"--{key} {value:g} for {before:g}" for key, value, before in
               zip(kd._fields, modifier.weights_of(kd), kd, strict=True) if value != before]
    return ", ".join(changed) + " with kd"


def _names(registry):
    return ", ".join(registry)
