"""The one exception that means "the user can fix this", and the closest names to a mistyped one.

Every package raises it; entry scripts print its single line on standard error and exit with status 2 (cli/parser.py).
"""
import difflib


class UsageError(Exception):
    """Bad input: a flag, name, file or pair of networks. The message is one line that names the fault and the fix."""


def unknown(kind, name, choices):
    """UsageError for `name`, which is not among `choices`, naming the nearest of them."""
    choices = sorted(choices)
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(lower[n] for n in near)}?" if near else f"choose from {', '.join(choices)}"
    return UsageError(f"unknown {kind} '{name}': {hint}")
