"""Two classifiers side by side: their rows, biases, class similarities and predictions, as text and as a picture.

    python compare_heads.py save/teachers/NAME save/students/NAME
"""
from cli import parser as cli
from cli.options import compare_options
from helper.loop import evaluate
from helper.opened import open_for_comparison
from runs.compare import check_targets, compare, describe, draw, predictions, write_json
from tasks import CLASSIFICATION as task


def main(argv=None):
    opt = compare_options(argv)
    picture = check_targets(opt)
    a, b, data, loader, device = open_for_comparison(opt)
    numbers = compare(a, b)
    if loader is not None:
        scores = evaluate(a, loader, device, task, teacher=b, detailed=True)
        numbers["predictions"] = {"dataset": data.name, "split": opt.split, **predictions(scores)}
    print(describe(numbers, opt))
    if opt.json:
        write_json(opt.json, numbers, opt)
    draw(a, b, opt, picture, classes=data.classes if data else None)
    print(f"picture: {picture}")


if __name__ == "__main__":
    cli.run(main)
