"""Score a checkpoint: top-1 and top-5 accuracy, calibration, and agreement with a teacher.

    python evaluate.py --path save/students/NAME --path_t save/teachers/NAME
"""
import json
from pathlib import Path

from helper import cli
from helper.options import evaluate_options
from helper.score import describe, score
from helper.setup import open_for_scoring


def main(argv=None):
    opt = evaluate_options(argv)
    model, teacher, loader, device = open_for_scoring(opt)
    scores = score(model, loader, device, teacher)
    print(f"{opt.split} images of {opt.dataset}: {describe(scores)}")
    if opt.json:
        Path(opt.json).write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
