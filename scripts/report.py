"""Print a table over runs, and plot their curves.

    python scripts/report.py save/students --plot curves.png
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import parser as cli
from runs.plots import bars, plot, plot_heads
from runs.report import find_runs, group_runs, table


def main(argv=None):
    parser = cli.Parser(description="Table and pictures over runs; trials of one setting are averaged.")
    parser.add_argument("paths", nargs="*", default=["save"], help="run directories, or folders of them")
    parser.add_argument("--plot", type=cli.picture, metavar="FILE", help="write the learning curves there")
    parser.add_argument("--bars", type=cli.picture, metavar="FILE", help="write a bar chart of the last epochs there")
    parser.add_argument("--heads", type=cli.picture, metavar="FILE",
                        help="write the accuracy of the heads of train_heads.py by depth there")
    opt = parser.parse_args(argv)
    groups = group_runs(find_runs(opt.paths))
    print(table(groups))
    if opt.plot:
        plot(groups, opt.plot)
    if opt.bars:
        bars(groups, opt.bars)
    if opt.heads:
        plot_heads(groups, opt.heads)


if __name__ == "__main__":
    cli.run(main)
