"""Train intermediate classifiers on a frozen teacher: heads.pth beside it for --distill dih, heads_sepconv.pth for
tofd, heads_conv.pth for mhkd.

    python train_heads.py --path_t save/teachers/resnet110_cifar100_recipe-dih_trial-0 --recipe dih
"""
from cli import parser as cli
from cli.options import heads_options
from helper.build import make_record, prepare
from helper.compiling import compile_objective
from helper.fit import fit
from helper.frozen import prepare_teacher
from helper.opened import make_teacher, open_teacher
from helper.seeds import seed_everything
from helper.tuning import HeadTuning, describe_heads, file_facts
from models import default_learning_rate, feature_shapes
from models.heads import Heads
from models.tuned import check_place, save_heads
from runs.directory import Run
from tasks import CLASSIFICATION as task


def main(argv=None):
    opt = heads_options(argv)
    checkpoint = open_teacher(opt)
    device, data, loaders = prepare(opt)

    teacher = make_teacher(checkpoint, opt, device, data, loaders["test"], task)
    if opt.learning_rate is None:  # the recipe leaves it to the network
        opt = opt.but(learning_rate=default_learning_rate(teacher.network.name))
    seed_everything(opt.seed, opt.deterministic)
    shapes = feature_shapes(teacher.network, data.image_size)[1:-1]
    heads = Heads(shapes, opt.head_stages, data.num_classes, opt.head_type, opt.head_pool).to(device.device)
    split = "val" if "val" in loaders else "test"
    frozen = teacher.network if opt.plain_teacher else prepare_teacher(teacher.network, device, data.image_size)
    objective = HeadTuning(frozen, heads, device, split, task)
    compiled = compile_objective(objective, opt, device, loaders["train"])

    record = make_record("heads", opt, data, device, teacher.network, heads, compiled=compiled,
                         inputs={"teacher": teacher.hash}, teacher=teacher.facts)
    directory, file = checkpoint.path.parent / opt.name, checkpoint.path.parent / f"{opt.name}.pth"
    check_place(file)
    with Run(directory, record) as run:
        fit(objective, loaders, device, run, opt, task)
        best = objective.student
        save_heads(file, best.best, {
            "num_classes": data.num_classes, "image_size": data.image_size, "teacher_arch": teacher.network.name,
            "teacher_hash": teacher.hash, "teacher_acc": teacher.facts["accuracy"], **file_facts(best)})
        print(describe_heads(best, split))
        print(f"{file}: the heads, each of its best epoch")


if __name__ == "__main__":
    cli.run(main)
