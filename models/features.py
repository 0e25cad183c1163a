"""A network's features of a batch, and what a loss reads of them."""
from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """A network's outputs for a batch: `feats` = [stem map, stage maps ..., embedding], and `logits` (B, K).

    With depth=N only the first N maps; logits is None.
    """

    feats: list[Tensor]
    logits: Tensor | None

    @property
    def maps(self):
        """The stage maps (B, C, H, W), shallow to deep, without the stem's."""
        return self.feats[1:] if self.logits is None else self.feats[1:-1]

    @property
    def embedding(self):
        """The classifier's input (B, D)."""
        return self.feats[-1]


class Reads(NamedTuple):
    """What a loss reads of student and teacher. It determines how far the networks run.

    The defaults stand for all features and the logits of both networks.
    """

    teacher: bool = True  # False: nothing of the teacher
    student: bool = True  # False: nothing of the student (a first stage that trains modules on the teacher alone)
    maps: bool = False  # only the teacher's maps
    depth: int | None = None  # only the teacher's first `depth` maps, counted from the stem's
    logits: bool = False  # only the logits of both networks, on which modifiers of the logits (+ls) act
    preact: bool = False  # stage maps before their ReLU, of both
    input_gradient: bool = False  # the gradient of both networks with respect to the images
    heads: str | None = None  # kind of the auxiliary classifiers that train_heads.py trains on the teacher first

    def t_depth(self, n_maps):
        """How many of the teacher's `n_maps` maps are needed; None if the teacher must run to its logits."""
        return n_maps if self.maps else self.depth


def deepest(reads, n_maps):
    """The depth to which the teacher runs: a number of maps, or None for the whole network.

    reads: [Reads] of the losses that read the teacher.
    n_maps: number of the teacher's maps.
    """
    depths = [each.t_depth(n_maps) for each in reads]
    return None if None in depths else max(depths)
