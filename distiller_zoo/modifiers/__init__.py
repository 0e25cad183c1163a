"""What METHOD+NAME adds to a method, by NAME. A new modifier is a file of this folder and a line here."""
from distiller_zoo.modifiers.logit_std import LogitStandardizationModifier
from distiller_zoo.modifiers.teacher_head import TeacherHeadModifier

modifiers = {  # in the order in which they are built, applied and named
    "ls": LogitStandardizationModifier,
    "th": TeacherHeadModifier,
}
