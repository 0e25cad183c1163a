"""Score a checkpoint: top-1 and top-5 accuracy, calibration, and agreement with a teacher.

    python evaluate.py --path save/students/NAME --path_t save/teachers/NAME
"""
import json
from pathlib import Path

from cli import parser as cli
from cli.options import evaluate_options
from helper.loop import evaluate
from helper.opened import open_for_scoring
from tasks import CLASSIFICATION as task


def main(argv=None):
    opt = evaluate_options(argv)
    model, teacher, data, loader, device = open_for_scoring(opt)
    scores = evaluate(model, loader, device, task, teacher=teacher, detailed=True)
    print(f"{opt.split} images of {data.name}: {task.describe(scores)}")
    if opt.json:
        Path(opt.json).write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
