"""What a flag of the command line is, its role in a run's identity, the types of values, and parsed options."""
import argparse
import math
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

PICTURES = (".png", ".pdf", ".svg")  # files that a picture is written to


class Role(Enum):
    """What a flag means for which run it is (runs/record.py)."""

    IDENTITY = "identity"  # another value makes another run: part of its name, equal when it is resumed
    INPUT = "input"  # the place of a network or of heads: what is there identifies the run, not the place
    PLACE = "place"  # where data and runs are, on which device
    DISPLAY = "display"  # what is printed, kept and repeated


class Option(NamedTuple):
    """A flag of the command line: Option(("-f", "--factor"), dict(type=int, ...)). settings: argparse's."""

    flags: tuple[str, ...]
    settings: dict
    role: Role = Role.IDENTITY

    @property
    def name(self):
        """The attribute of the parsed options: that of the long flag."""
        return next(flag for flag in self.flags if flag.startswith("--"))[2:]


class Options(Mapping):
    """Parsed options, read-only: opt.epochs, opt["epochs"], dict(opt).

    Attributes:
        given: names of the identifying options that are not at their defaults, in the order of the flags.
        roles: {name: Role}.
    """

    def __init__(self, values, given=(), roles=None):
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "given", tuple(given))
        object.__setattr__(self, "roles", dict(roles or {}))

    def __getitem__(self, name):
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __getattr__(self, name):
        try:
            return object.__getattribute__(self, "_values")[name]
        except KeyError:
            raise AttributeError(f"there is no option {name}") from None

    def __setattr__(self, name, value):
        raise AttributeError(f"options are read-only after parsing: {name}")

    def but(self, **values):
        """A copy with other or more values."""
        return Options(self._values | values, self.given, self.roles)


def number(kind, at_least=None, above=None, below=None, at_most=None):
    """An argparse type: a finite int or float within its bounds, inclusive (`at_least`, `at_most`) or not."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"'{text}' is not {'a whole' if kind is int else 'a finite'} number")
        if at_least is not None and value < at_least:
            raise argparse.ArgumentTypeError(f"{text} is below {at_least}")
        if above is not None and value <= above:
            raise argparse.ArgumentTypeError(f"{text} is not above {above}")
        if below is not None and value >= below:
            raise argparse.ArgumentTypeError(f"{text} is not below {below}")
        if at_most is not None and value > at_most:
            raise argparse.ArgumentTypeError(f"{text} is above {at_most}")
        return value

    return parse


SWITCH = {"type": int, "choices": [0, 1], "nargs": "?", "const": 1, "default": 0, "metavar": "0|1"}
