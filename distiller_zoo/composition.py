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

    name: as --distill takes it, the modifiers in the order of `modifiers`, whatever order they are typed in.
    weights: the published ones of the whole.
    """

    name: str
    method: type[Method]
    modifiers: dict[str, type[Modifier]]
    weights: LossWeights

    @property
    def options(self):
        """The flags of the method and of its modifiers, each once."""
        declared = [option for part in (self.method, *self.modifiers.values()) for option in part.options]
        return tuple({option.name: option for option in declared}.values())  # those of one name are declared alike

    @property
    def reads(self):
        """What the method's class says that its loss reads; see Method.reads."""
        return self.method.reads

    @property
    def needs_teacher(self):
        """Is there anything that a teacher is for?"""
        return self.reads is None or self.reads.teacher

    @property
    def paper(self):
        """The first line of the file that it comes from: title, authors, venue."""
        part = list(self.modifiers.values())[-1] if self.modifiers else self.method
        return sys.modules[part.__module__].__doc__.splitlines()[0]

    def defaults(self, **given):
        """Options without a command line: the published weights, and every flag of the method at its default, but for
        those that are given."""
        options = {name: value for name, value in self.weights._asdict().items() if name not in ("source", "means")}
        options |= {option.name: option.settings.get("default") for option in self.options}
        return Options({"distill": self.name, "learning_rate": 0.05, **options, **given})

    def with_modifiers(self, names):
        """The same with further modifiers. Raises UsageError for unknown ones, two of one name, and for those that do
        not go with the method."""
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
        """The Method of a pair and its Modifiers, nn.ModuleDict by name.

        Args:
            opt: the options, as Method's. Without them those are the defaults, and `given` ones: image_size and
                num_classes at least; n_data, targets, learning_rate and others where the method reads them.

        Raises:
            UsageError: as Method.
        """
        if opt is None:
            opt = self.defaults(**given)
        method = self.method(student, teacher, opt)
        built = {name: modifier(student, teacher, opt, method) for name, modifier in self.modifiers.items()}
        return method, nn.ModuleDict(built)

