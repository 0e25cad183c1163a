"""What identifies a run: its kind, its options, and the facts that data, networks and device decided."""
import dataclasses
import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from errors import UsageError
from files import write_text
from flags import Role

SETTLED_LATER = ("precision", "compile", "image_size")  # options that data and device settle: the facts say how
LONGEST_NAME = 200  # bytes; file systems allow 255
FILE = "options.json"
# Places of their own in a student's name.
NAMED_APART = {"model", "model_s", "distill", "gamma", "alpha", "beta", "delta", "dataset", "trial"}


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run, as its files and every other run know it.

    Attributes:
        kind: "teacher", "student" or "heads".
        options: {name: value}, as parsed and resolved; plain values.
        given: names of the identifying options that are not at their defaults, in the order of the flags.
        facts: what the run found out. `data`: name, identity, image_size, num_classes, n_data, mean, std. `inputs`:
            digits of the weights that it reads: teacher, th (whose classifier it shares), heads. `resolved`: what
            "auto" became: precision, compile. And what its files say besides: arch, parameters, teacher, hardware.
        roles: {name: Role} of the options; those that are not there are Role.IDENTITY.
    """

    kind: str
    options: dict
    given: tuple = ()
    facts: dict = dataclasses.field(default_factory=dict)
    roles: dict = dataclasses.field(default_factory=dict)

    # Which run it is

    def identity(self):
        """{name: value} of the options that another value of makes another run."""
        return {key: value for key, value in self.options.items() if self.role(key) is Role.IDENTITY}

    def role(self, key):
        return self.roles.get(key, Role.IDENTITY)

    def name(self):
        """The run's directory: --name, or all that distinguishes the run.

        'resnet20_cifar100_epochs-30_trial-0'; a teacher with another network's classifier:
        'resnet32x4_cifar100_th-resnet8x4-1a2b3c_trial-0'; a student:
        'S-resnet8_T-resnet20-1a2b3c_cifar100_kd_r-0.1_a-0.9_b-0_trial-1', where the digits are of the weights.
        """
        opt, inputs, data = self.options, self.facts.get("inputs", {}), self.facts["data"]["name"]
        if opt.get("name"):
            return opt["name"]
        shared = [f"th-{inputs['th']}"] if inputs.get("th") else []
        if self.kind == "teacher":
            return _joined([opt["model"], data, *shared, *self._settings()], opt["trial"])
        weights = [f"{letter}-{_text(opt[key])}" for letter, key in (("r", "gamma"), ("a", "alpha"), ("b", "beta"))]
        weights += [f"d-{_text(opt['delta'])}"] if opt["delta"] else []
        weights += [f"heads-{inputs['heads']}"] if inputs.get("heads") else []
        teachers = [f"T-{self.facts['teacher']['arch']}-{inputs['teacher'][:6]}"] if inputs.get("teacher") else []
        return _joined([f"S-{opt['model_s']}", *teachers, data, opt["distill"], *weights, *self._settings()],
                       opt["trial"])

    def _settings(self):
        """'key-value' of each option that was given and has no place of its own in the name."""
        return [f"{key}-{_text(self.options[key])}" for key in self.given if key not in NAMED_APART]

    def differs(self, before):
        """[(what, its value in `before`, its value here)], where the two records are of different runs.

        What only one of them knows does not count: an earlier version had fewer options, and before a run starts it
        does not know what data, networks and device decide.
        """
        here, there = self._effective(), before._effective()
        return [(key, there[key], here[key]) for key in here
                if key in there and _plain(here[key]) != _plain(there[key])]

    def _effective(self):
        """{name: value} of all that identifies the run, as far as it is known: facts before the options they settle."""
        parts = [self.facts.get(part, {}) for part in ("data", "inputs", "resolved")]
        # A folder's name is its place; what is in it has an identity.
        known = {key: value for part in parts for key, value in part.items() if value is not None and key != "name"}
        settled = {*SETTLED_LATER, "learning_rate", "head_stages"} - known.keys()
        options = {key: value for key, value in self.identity().items()
                   if not (key in settled and value in (None, "auto"))}
        return options | known

    def check_same(self, before, directory):
        """Raises UsageError, naming the first difference, unless this run may go on in the directory of `before`."""
        for key, was, now in self.differs(before):
            if key == "identity":
                raise UsageError(f"{directory} was begun on other images than {self.options.get('data_dir')} has now: "
                                 "pass --overwrite to start it anew, or another --name")
            if key in self.facts.get("resolved", {}) and self.options.get(key) == "auto":
                raise UsageError(f"{directory} was begun with {key} = {was}, and --{key} auto is {now} now: give "
                                 f"--{key} {was} to go on, or --overwrite to start it anew")
            another = "another --name" if self.options.get("name") else "another --trial"
            raise UsageError(f"{directory} was begun with {key} = {was}, not {now}: pass --overwrite to start it anew, "
                             f"or {another}")

    def setting(self):
        """What groups the runs of a table: ((name, value as JSON), ...). Runs of one setting differ by trial alone."""
        options = {key: value for key, value in self.identity().items()
                   if key not in {"trial", "seed", *SETTLED_LATER}}
        inputs = {key: value for key, value in self.facts.get("inputs", {}).items() if value is not None}
        data = self.facts.get("data", {})
        facts = {"data": data.get("name"), "image_size": data.get("image_size"), "arch": self.facts.get("arch"),
                 "teacher": self.facts.get("teacher", {}).get("arch"), **self.facts.get("resolved", {})}
        settings = options | {f"{key} weights": value for key, value in inputs.items()} | facts
        return tuple(sorted((key, json.dumps(value)) for key, value in settings.items()))

    # On disk

    def as_dict(self):
        """The record as plain values, for checkpoints and options.json."""
        roles = {key: role.value for key, role in self.roles.items() if role is not Role.IDENTITY}
        return {"kind": self.kind, "options": _plain(self.options), "given": list(self.given),
                "facts": _plain(self.facts), "roles": roles}

    @classmethod
    def from_dict(cls, content):
        """The record that `as_dict` gave, or the one that an earlier version wrote."""
        if "roles" not in content:
            return _earlier(content)
        roles = {key: Role(value) for key, value in content["roles"].items()}
        return cls(content["kind"], content["options"], tuple(content["given"]), content["facts"], roles)

    @classmethod
    def of_checkpoint(cls, raw):
        """The record in a checkpoint; of a published file what it says of its data set; None if that is nothing."""
        if isinstance(raw.get("record"), Mapping) and "kind" in raw["record"]:
            return cls.from_dict(raw["record"])
        options = raw.get("options") or raw.get("opt")
        options = vars(options) if isinstance(options, Namespace) else options
        if not isinstance(options, Mapping) or not options.get("dataset"):
            return None
        if not {"arch", "num_classes"} <= raw.keys():  # another program's
            options = {key: options[key] for key in PUBLISHED if options.get(key) is not None}
            if not {"mean", "std"} <= options.keys():
                options = {key: value for key, value in options.items() if key not in ("mean", "std")}
        return _earlier(options | {key: raw[key] for key in EARLIER_FACTS if key in raw})

    @classmethod
    def read(cls, directory):
        """The record of a run's directory. Raises UsageError if there is none, or it is damaged."""
        file = Path(directory, FILE)
        try:
            return cls.from_dict(json.loads(file.read_text()))
        except FileNotFoundError:
            raise UsageError(f"{directory} has no {FILE}, which says what run it is") from None
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{file} is damaged: train the run again with --overwrite") from error

    def write(self, directory, **more):
        """Write options.json; `more` is for people alone."""
        write_text(Path(directory, FILE), json.dumps(self.as_dict() | more, indent=1) + "\n")


def _plain(value):
    """As JSON has it: lists for tuples."""
    return json.loads(json.dumps(value))


def _text(value):
    if isinstance(value, list):
        return "+".join(map(_text, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"  # 1 rather than 1.0; but never two values under one name
    return str(value)


def _joined(parts, trial):
    name, end = "_".join(parts).replace("/", "."), f"_trial-{trial}"
    name, end = (re.sub(r"[^\w.+-]", "-", text) for text in (name, end))
    if len(name + end) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name[:LONGEST_NAME - len(end) - 13]}_{digest}"
    return name + end


# Records of earlier versions: one flat dict of options and facts, which did not say which is which.

PUBLISHED = {"dataset", "data_dir", "image_size", "holdout", "mean", "std"}  # what is read of other programs' options
EARLIER_FACTS = {"arch", "parameters", "teacher", "hardware", "imagenet", "deploys", "num_classes"}
EARLIER_DATA = {"num_classes", "n_data", "mean", "std", "image_size"}
EARLIER_ROLES = {
    Role.INPUT: {"path_t", "model_t", "path_th", "path_heads"},
    Role.PLACE: {"data_dir", "save_dir", "num_workers", "gpu_id", "name"},
    Role.DISPLAY: {"print_freq", "save_freq", "overwrite", "skip_validation"},
}
EARLIER_TRAINING = {"optimizer": "sgd", "lr_schedule": "step", "lr_min": 0.0, "lr_power": 2.0, "lr_warmup_epochs": 0.0,
                    "ema_decay": 0.0}  # what came later, as it was then
EARLIER_OTHERS = {"command", "torch", "heads", "th", "teacher_hash", "data_identity", "d"}


def _earlier(content):
    data = {key: content[key] for key in EARLIER_DATA if key in content}
    data |= {"name": content.get("dataset"), "identity": content.get("data_identity")}
    if content.get("dataset") == "folder":
        data["name"] = f"folder-{Path(content.get('data_dir', '')).resolve().name}"
    inputs = {key: content.get(old) for key, old in (("teacher", "teacher_hash"), ("th", "th"), ("heads", "heads"))}
    kind = "heads" if "head_type" in content else "student" if "distill" in content else "teacher"
    if kind == "heads":
        inputs["heads"] = None  # the type of head, which --head_type says
    facts = {key: content[key] for key in EARLIER_FACTS - {"deploys", "num_classes"} if key in content}
    # What "auto" became took the place of the option.
    resolved = {key: content[key] for key in ("precision", "compile") if key in content}
    facts |= {"data": data, "inputs": {k: v for k, v in inputs.items() if v is not None}, "resolved": resolved}
    roles = {key: role for role, keys in EARLIER_ROLES.items() for key in keys}
    left_out = EARLIER_DATA | EARLIER_FACTS | EARLIER_OTHERS | resolved.keys()
    options = EARLIER_TRAINING | {key: value for key, value in content.items() if key not in left_out}
    # A method wrote the stages that it chose itself into head_stages.
    options |= {"head_stages": None} if kind == "student" else {}
    return RunRecord(kind, options, (), facts, roles)
