"""The command line's manners: both spellings of a flag, one-line errors, exit status 2, options that stay."""
import argparse
import re
import sys

from errors import UsageError, unknown
from flags import PICTURES, Role


def add(group, *flags, role=Role.IDENTITY, **settings):
    """group.add_argument, with the flag's role in a run's identity."""
    group.add_argument(*flags, **settings).role = role


def add_option(group, option, **settings):
    """Add a flags.Option, its argparse settings overridden by `settings`."""
    add(group, *option.flags, role=option.role, **option.settings | settings)


class Parser(argparse.ArgumentParser):
    """argparse where `--path-t` and `--path_t` are one flag, prefixes are not guessed, and an error is a UsageError."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)

    def parse_args(self, args=None, namespace=None):
        opt, rest = self.parse_known_args(underscored(args), namespace)
        if rest:
            flag = rest[0].split("=")[0]
            if not flag.startswith("-"):
                raise UsageError(f"unexpected argument '{flag}': every option is a flag, see --help")
            raise unknown("flag", flag, [f for f in self._option_string_actions if f.startswith("--")])
        return opt

    def error(self, message):
        raise UsageError(message)


def underscored(args):
    """The arguments (None: the process's own), flags spelled with underscores."""
    return [_underscored(arg) for arg in (sys.argv[1:] if args is None else args)]


def _underscored(arg):
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind each flag, except where the text says it itself (default None)."""

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False or action.default == ""
        return action.help if silent else super()._get_help_string(action)


def epoch_list(text):
    """An argparse type: '150,180,210' -> [150, 180, 210], rising; '' for none."""
    try:
        epochs = [int(part) for part in text.split(",") if part]
    except ValueError:
        epochs = [0]
    if epochs != sorted(set(epochs)) or (epochs and epochs[0] < 1):
        raise argparse.ArgumentTypeError(f"'{text}' is not a rising list of epochs such as 150,180,210")
    return epochs


def file_name(text):
    """An argparse type: a name for one directory, without separators."""
    if not re.fullmatch(r"\w[\w.+-]*", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not letters, digits and . _ + - alone")
    return text


def picture(text):
    """An argparse type: a file that can be drawn to."""
    if not text.lower().endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"{text} is no picture: give a name that ends in {', '.join(PICTURES)}")
    return text


def run(main):
    """Call `main()`; bad input ends in one line on standard error and exit status 2."""
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:  # while there is nothing to save yet
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:  # a full disk, a folder without permission, a file where a folder should be
        if error.filename is None:
            raise
        sys.exit(_fail(f"{error.filename}: {error.strerror}"))


def _fail(message):
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
