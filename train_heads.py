"""Tune intermediate classifiers on a frozen teacher: heads.pth beside it for --distill dih, heads_sepconv.pth for tofd,
heads_conv.pth for mhkd.

    python train_heads.py --path_t save/teachers/resnet110_cifar100_recipe-dih_trial-0 --recipe dih
"""
from helper import cli
from helper.compiling import compile_objective
from helper.device import seed_everything
from helper.fit import fit, make_optimizer
from helper.frozen import prepare_teacher
from helper.options import heads_options
from helper.run import Run
from helper.setup import make_teacher, network_facts, open_teacher, prepare
from helper.tuning import HeadTuning, check_place, describe_heads, save_heads
from models import default_learning_rate, feature_shapes
from models.heads import Heads


def main(argv=None):
    opt = heads_options(argv)
    checkpoint = open_teacher(opt)
    device, data, loaders = prepare(opt)

    teacher, teacher_facts = make_teacher(checkpoint, opt, device, data, loaders["test"])
    if opt.learning_rate is None:
        opt.learning_rate = default_learning_rate(teacher.name)
    seed_everything(opt.seed, opt.deterministic)
    shapes = feature_shapes(teacher, opt.image_size)[1:-1]
    heads = Heads(shapes, opt.head_stages, opt.num_classes, opt.head_type, opt.head_pool).to(device.device)
    split = "val" if "val" in loaders else "test"
    if not opt.plain_teacher:
        teacher = prepare_teacher(teacher, device, opt.image_size)
    objective = HeadTuning(teacher, heads, device, split)
    compile_objective(objective, opt, device, opt.epochs * len(loaders["train"]))

    facts = network_facts(teacher.name, heads, heads, opt, device) | teacher_facts | {"heads": opt.head_type}
    directory, file = checkpoint.path.parent / opt.name, checkpoint.path.parent / f"{opt.name}.pth"
    check_place(file)
    with Run(directory, opt, facts) as run:
        optimizer, scheduler = make_optimizer(objective, opt)
        fit(objective, optimizer, scheduler, loaders, device, run, opt)
        save_heads(file, objective.student, opt, teacher_facts["teacher"])
        print(describe_heads(objective.student, split))
        print(f"{file}: the heads, each of its best epoch")


if __name__ == "__main__":
    cli.run(main)
