"""Command line flags that several methods share, and their types. A flag of one method alone stands in its file."""
import argparse
import math

from distiller_zoo.base import Option


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
INIT_EPOCHS = Option(("--init_epochs",), {
    "type": number(int, at_least=0), "default": 30, "metavar": "N",
    "help": "hint in two stages, abound, factor, fsp: epochs of the first stage"})
TH_ADAPTER = Option(("--th_adapter",), {
    "choices": ["linear", "none"], "default": "linear",
    "help": "where a classifier or embedding is shared between unequal widths: a trained linear layer, or an error"})
FEAT_DIM = Option(("--feat_dim",), {
    "type": number(int, at_least=1), "default": 128, "metavar": "D",
    "help": "correlation, crd: width of the embeddings that are compared"})
