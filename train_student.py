"""Distil a student from a trained teacher.

    python train_student.py --path_t save/teachers/resnet32x4_cifar100_trial-0 --distill kd --model_s resnet8x4
"""
import sys

from cli import parser as cli
from cli.options import student_options
from distiller_zoo import get_method, make_terms
from helper.build import make_record, make_student, method_options, prepare
from helper.compiling import compile_objective
from helper.fit import fit, pretrain
from helper.frozen import prepare_teacher
from helper.objective import Objective
from helper.opened import make_teacher, open_teacher
from models.tuned import heads_hash
from runs.directory import Run
from tasks import CLASSIFICATION as task


def main(argv=None):
    opt = student_options(argv)
    checkpoint = open_teacher(opt)
    device, data, loaders = prepare(opt)

    teacher = make_teacher(checkpoint, opt, device, data, loaders["test"], task)
    student = make_student(teacher.network, opt, device, data)
    method, modifiers = get_method(opt.distill).build(student, teacher.network, method_options(opt, data, teacher.hash))
    method, modifiers = method.to(device.device), modifiers.to(device.device)
    frozen = teacher.network if opt.plain_teacher else prepare_teacher(teacher.network, device, data.image_size)
    terms = make_terms(task.criterion, opt, method, modifiers)
    objective = Objective(student, device, terms, frozen, method, modifiers)
    note_idle_weights(opt, method)
    compiled = compile_objective(objective, opt, device, loaders["train"])

    record = make_record("student", opt, data, device, student, objective.deployed(), compiled=compiled,
                         inputs={"teacher": teacher.hash, "heads": heads_hash(method)},
                         **({"teacher": teacher.facts} if teacher.facts else {}))
    with Run(f"{opt.save_dir}/students/{record.name()}", record, objective.deployment()) as run:
        pretrain(objective, loaders["train"], device, run, opt, task)
        fit(objective, loaders, device, run, opt, task)


def note_idle_weights(opt, method):
    """Say which weight that was given, or is 0, makes no difference."""
    if "beta" in opt.given and opt.beta and method.reads is None:
        print(f"note: {opt.distill} has no loss of its own in the main stage: --beta weighs nothing", file=sys.stderr)
    if "th" in get_method(opt.distill).modifiers and not opt.delta:
        print(f"note: --delta is 0 for {opt.distill}: the teacher's head teaches the student nothing", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
