"""Train a network by cross-entropy: a teacher, or a student alone.

    python train_teacher.py --model resnet32x4 --dataset cifar100
    python train_teacher.py --model resnet32x4 --dataset cifar100 --path_th save/teachers/resnet8x4_cifar100_trial-0
"""
from helper import cli
from helper.compiling import compile_objective
from helper.fit import fit, make_optimizer
from helper.objective import Objective
from helper.options import teacher_options
from helper.run import Run, teacher_name
from helper.setup import make_network, network_facts, open_head, prepare


def main(argv=None):
    opt = teacher_options(argv)
    head = open_head(opt)
    device, data, loaders = prepare(opt)

    model = make_network(opt.model, opt, device, head)
    objective = Objective(model, device)
    compile_objective(objective, opt, device, opt.epochs * len(loaders["train"]))

    facts = network_facts(opt.model, model, model, opt, device)
    with Run(f"{opt.save_dir}/teachers/{teacher_name(opt, data.name)}", opt, facts) as run:
        optimizer, scheduler = make_optimizer(objective, opt)
        fit(objective, optimizer, scheduler, loaders, device, run, opt)


if __name__ == "__main__":
    cli.run(main)
