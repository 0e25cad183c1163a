"""Two classifiers side by side: their rows, biases, class similarities and predictions, as text and as a picture.

    python compare_heads.py save/teachers/NAME save/students/NAME
"""
from helper import cli
from helper.compare import agreement, check_targets, compare, describe, draw, write_json
from helper.options import compare_options
from helper.setup import open_for_comparison


def main(argv=None):
    opt = compare_options(argv)
    check_targets(opt)
    a, b, data, loader, device = open_for_comparison(opt)
    numbers = compare(a, b)
    if loader is not None:
        numbers["predictions"] = {"dataset": data.name, "split": opt.split, **agreement(a, b, loader, device)}
    print(describe(numbers, opt))
    if opt.json:
        write_json(opt.json, numbers, opt)
    draw(a, b, opt, classes=data.classes if data else None)
    print(f"picture: {opt.plot}")


if __name__ == "__main__":
    cli.run(main)
