"""Distil a student from a trained teacher.

    python train_student.py --path_t save/teachers/resnet32x4_cifar100_trial-0 --distill kd --model_s resnet8x4
"""
import sys

from distiller_zoo import get_method
from helper import cli
from helper.compiling import compile_objective
from helper.fit import fit, make_optimizer, pretrain
from helper.frozen import prepare_teacher
from helper.objective import Objective
from helper.options import student_options
from helper.run import Run, student_name
from helper.setup import make_student, make_teacher, network_facts, open_teacher, prepare


def main(argv=None):
    opt = student_options(argv)
    checkpoint = open_teacher(opt)
    device, data, loaders = prepare(opt)

    teacher, teacher_facts = make_teacher(checkpoint, opt, device, data, loaders["test"])
    student = make_student(teacher, opt, device)
    method = get_method(opt.distill)(student, teacher, opt).to(device.device)
    if "beta" in opt.named and opt.beta and not method.has_loss:
        print(f"note: {opt.distill} has no loss of its own in the main stage: --beta weighs nothing", file=sys.stderr)
    if not opt.plain_teacher:
        teacher = prepare_teacher(teacher, device, opt.image_size)
    objective = Objective(student, device, teacher, method, opt.gamma, opt.alpha, opt.beta, opt.kd_T)
    compile_objective(objective, opt, device, opt.epochs * len(loaders["train"]))
    if type(method).has_weighted_terms and not opt.delta:
        print(f"note: --delta is 0 for {opt.distill}: the teacher's head teaches the student nothing", file=sys.stderr)

    facts = network_facts(opt.model_s, student, method.deploy(student), opt, device) | teacher_facts
    with Run(f"{opt.save_dir}/students/{student_name(opt, data.name, teacher_facts)}", opt, facts) as run:
        pretrain(objective, loaders["train"], device, run, opt)
        optimizer, scheduler = make_optimizer(objective, opt)
        fit(objective, optimizer, scheduler, loaders, device, run, opt)


if __name__ == "__main__":
    cli.run(main)
