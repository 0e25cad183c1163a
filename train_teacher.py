"""Train a network by cross-entropy: a teacher, or a student alone.

    python train_teacher.py --model resnet32x4 --dataset cifar100
    python train_teacher.py --model resnet32x4 --dataset cifar100 --path_th save/teachers/resnet8x4_cifar100_trial-0
"""
from cli import parser as cli
from cli.options import teacher_options
from distiller_zoo import make_terms
from helper.build import make_network, make_record, prepare
from helper.compiling import compile_objective
from helper.fit import fit
from helper.objective import Objective
from helper.opened import open_head
from runs.directory import Run
from tasks import CLASSIFICATION as task


def main(argv=None):
    opt = teacher_options(argv)
    head = open_head(opt)
    device, data, loaders = prepare(opt)

    model = make_network(opt.model, opt, device, data, head)
    objective = Objective(model, device, make_terms(task.criterion))
    compiled = compile_objective(objective, opt, device, loaders["train"])

    record = make_record("teacher", opt, data, device, model, model, compiled=compiled,
                         inputs={"th": head and head.label})
    with Run(f"{opt.save_dir}/teachers/{record.name()}", record, objective.deployment()) as run:
        fit(objective, loaders, device, run, opt, task)


if __name__ == "__main__":
    cli.run(main)
