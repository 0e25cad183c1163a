"""Flags that several methods share. A flag of one method alone is in its file."""
import argparse

from flags import Option, Role, number


def stage_list(text):
    """An argparse type: '1,3' -> [1, 3], stages counted from 1, the shallowest."""
    try:
        stages = [int(part) for part in text.split(",")]
    except ValueError:
        stages = [0]
    if stages != sorted(set(stages)) or stages[0] < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a rising list of stages such as 1,2,3")
    return stages


INIT_EPOCHS = Option(("--init_epochs",), {
    "type": number(int, at_least=0), "default": 30, "metavar": "N",
    "help": "hint in two stages, abound, factor, fsp: epochs of the first stage"})
TH_ADAPTER = Option(("--th_adapter",), {
    "choices": ["linear", "none"], "default": "linear",
    "help": "where a classifier or embedding is shared between unequal widths: a trained linear layer, or an error"})
FEAT_DIM = Option(("--feat_dim",), {
    "type": number(int, at_least=1), "default": 128, "metavar": "D",
    "help": "correlation, crd: width of the embeddings that are compared"})
PATH_HEADS = Option(("--path_heads",), {
    "metavar": "DIR", "help": "dih, tofd, mhkd: the file that train_heads.py wrote, or its directory; default: beside "
    "the teacher (dih, tofd); mhkd has new heads, which learn with the student, unless this names trained ones"},
    Role.INPUT)
HEAD_STAGES = Option(("--head_stages",), {
    "type": stage_list, "metavar": "N,N,...", "help": "dih, mhkd, tofd, train_heads.py: stages with a classifier, 1 "
    "being the shallowest; default: all (mhkd: 1,2; tofd: all but the last)"})
