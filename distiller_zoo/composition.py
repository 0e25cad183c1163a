"""METHOD(+MODIFIER)*: a method and what modifies it, under the name that --distill takes."""
import sys
from typing import NamedTuple

from torch import nn

from distiller_zoo.method import LossWeights, Method, Modifier
from distiller_zoo.modifiers import modifiers
from errors import UsageError, unknown
from flags import Options


class Composition(NamedTuple):
    """A method and its modifiers, not built yet.

    name: as --distill takes it, with the modifiers in the order of distiller_zoo.modifiers.modifiers, whatever order
        the user types.
    weights: the published weights of the method with its modifiers.
    """

    name: str
    method: type[Method]
    modifiers: dict[str, type[Modifier]]
    weights: LossWeights

    @property
    def options(self):
        """The flags of the method and of its modifiers, each listed once."""
        declared = [option for part in (self.method, *self.modifiers.values()) for option in part.options]
        return tuple({option.name: option for option in declared}.values())  # equal names have equal declarations

    @property
    def reads(self):
        """The `reads` of the method's class; see Method.reads."""
        return self.method.reads

    @property
    def needs_teacher(self):
        """Whether training needs a teacher."""
        return self.reads is None or self.reads.teacher

    @property
    def paper(self):
        """The first docstring line of the last modifier's file, or of the method's: title, authors, venue."""
        part = list(self.modifiers.values())[-1] if self.modifiers else self.method
        return sys.modules[part.__module__].__doc__.splitlines()[0]

    def defaults(self, **given):
        """Options without a command line: the published weights, the default of every flag, and learning_rate 0.05.

        given: options that replace these or add to them.
        """
        options = {name: value for name, value in self.weights._asdict().items() if name not in ("source", "means")}
        options |= {option.name: option.settings.get("default") for option in self.options}
        return Options({"distill": self.name, "learning_rate": 0.05, **options, **given})

    def with_modifiers(self, names):
        """This composition with further modifiers.

        Raises:
            UsageError: a modifier is unknown, named twice, or does not fit the method.
        """
        chosen, weights = dict(self.modifiers), self.weights
        for name in names:
            if name not in modifiers:
                raise unknown("modifier of a method", name, modifiers)
            if name in chosen:
                raise UsageError(f"--distill {self.name}: the method has +{name} already: leave out the second")
            modifiers[name].check(self.method)
            chosen[name] = modifiers[name]
        added = [name for name in modifiers if name in names]
        for name in added:
            weights = modifiers[name].weights_of(weights)
        ordered = {name: chosen[name] for name in modifiers if name in chosen}
        return Composition("+".join([self.name, *added]), self.method, ordered, weights)

    def build(self, student, teacher, opt=None, **given):
        """The Method of a pair, and an nn.ModuleDict of its Modifiers by name.

        Args:
            student, teacher: the two networks; teacher None where `needs_teacher` is False.
            opt: the options, as for Method. None takes `defaults(**given)`; `given` must then include image_size and
                num_classes, and n_data, targets, learning_rate or others if the method reads them.

        Raises:
            UsageError: as Method and Modifier do.
        """
        if opt is None:
            opt = self.defaults(**given)
        method = self.method(student, teacher, opt)
        built = {name: modifier(student, teacher, opt, method) for name, modifier in self.modifiers.items()}
        return method, nn.ModuleDict(built)

