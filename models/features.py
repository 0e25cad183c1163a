"""What a network says of a batch, and what a loss reads of it."""
from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """What a network says of a batch: `feats` = [stem map, stage maps ..., embedding], and `logits` (B, K).

    With `depth` N only the first N maps; `logits` is None then.
    """

    feats: list[Tensor]
    logits: Tensor | None

    @property
    def maps(self):
        """The stage maps (B, C, H, W), shallow to deep, without the stem's."""
        return self.feats[1:] if self.logits is None else self.feats[1:-1]

    @property
    def embedding(self):
        """What the classifier reads: (B, D)."""
        return self.feats[-1]


class Reads(NamedTuple):
    """What a loss reads of student and teacher: how far the networks are run follows from it.

    Without arguments: all features and the logits of both.
    """

    teacher: bool = True  # False: nothing of the teacher
    student: bool = True  # False: nothing of the student (a first stage of the teacher's own modules)
    maps: bool = False  # of the teacher its maps alone
    depth: int | None = None  # of the teacher its first maps alone, this many from the stem's on
    logits: bool = False  # the logits of both and nothing else: what modifiers of the logits (+ls) act on
    preact: bool = False  # stage maps before their ReLU, of both
    input_gradient: bool = False  # the gradient of both networks with respect to the images
    heads: str | None = None  # auxiliary classifiers of this kind, which train_heads.py trains on the teacher before

    def t_depth(self, n_maps):
        """How many of the teacher's `n_maps` maps are enough; None if it has to be run to its logits."""
        return n_maps if self.maps else self.depth


def deepest(reads, n_maps):
    """How far the teacher is run for losses that read these: a number of maps, or None for all of it.

    reads: [Reads] that each read the teacher.
    """
    depths = [each.t_depth(n_maps) for each in reads]
    return None if None in depths else max(depths)
