"""A network's classifier on another network's embedding, frozen: what head sharing shares."""
import torch
from torch import nn

from errors import UsageError
from models.probe import get_classifier, unwrap


class TeacherHead(nn.Linear):
    """A frozen copy of a linear classifier, behind a trained linear adapter where the embedding has another width.

    The adapter is ours: in head sharing as published (arXiv 2201.06945) the two widths are equal.

    Args:
        classifier: nn.Linear, D -> K.
        width: of the embedding that is to be classified; None for the classifier's own, D.

    Shapes: e (B, width) -> logits (B, K).
    """

    def __init__(self, classifier, width=None):
        super().__init__(classifier.in_features, classifier.out_features, bias=classifier.bias is not None)
        self.load_state_dict(classifier.state_dict())
        self.requires_grad_(False)
        self.to(classifier.weight)
        self.adapter = None
        if width not in (None, self.in_features):
            self.adapter = nn.Linear(width, self.in_features).to(classifier.weight)

    def forward(self, e):
        return super().forward(e if self.adapter is None else self.adapter(e))

    @torch.no_grad()
    def folded(self):
        """The same map as one nn.Linear, width -> K: W (A e + a) + b = (W A) e + (W a + b).

        Its attribute `includes_adapter` says whether there was one.
        """
        weight, bias = self.weight.double(), 0 if self.bias is None else self.bias.double()
        if self.adapter is not None:
            bias = bias + weight @ self.adapter.bias.double()
            weight = weight @ self.adapter.weight.double()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=isinstance(bias, torch.Tensor)).to(self.weight)
        linear.weight.copy_(weight)
        if linear.bias is not None:
            linear.bias.copy_(bias)
        linear.includes_adapter = self.adapter is not None
        return linear


def share_head(model, classifier, adapter="linear"):
    """Puts a frozen copy of `classifier` in the place of the model's own, its number of classes being the same.

    adapter: what bridges embeddings of unequal width: 'linear' (trained with the model), or 'none'.
    Raises UsageError for unequal widths with 'none', and for a model or a classifier that is not linear.
    """
    width = get_classifier(model).in_features
    check_widths(width, classifier.in_features, adapter)
    set_classifier(model, TeacherHead(classifier, width))


def check_widths(s_dim, t_dim, adapter, shared="the classifier reads", own="the embedding has"):
    """Raises UsageError if what has t_dim features, such as a classifier, cannot be shared with an embedding of s_dim.

    shared, own: what the message calls the two.
    """
    if s_dim != t_dim and adapter == "none":
        raise UsageError(f"{shared} {t_dim} features and {own} {s_dim}: use --th_adapter linear, or networks of one "
                         "width, such as resnet32x4 and resnet8x4, resnet56 and resnet20, wrn_40_2 and wrn_16_2")


def set_classifier(model, classifier):
    """Replaces the final linear layer of a model of the zoo, in place."""
    model = unwrap(model)
    parent, _, name = model.head.rpartition(".")
    setattr(model.get_submodule(parent), name, classifier)
