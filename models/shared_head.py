"""A network's frozen classifier on another network's embedding, for head sharing."""
import torch
from torch import nn

from errors import UsageError
from models.probe import get_classifier, unwrap


class TeacherHead(nn.Linear):
    """A frozen copy of a linear classifier, after a trained linear adapter where the embedding has another width.

    The adapter is our addition: in published head sharing (arXiv 2201.06945) the two widths are equal.

    Args:
        classifier: nn.Linear, D -> K.
        width: width of the embedding; None for the classifier's input width D.

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

        Its attribute `includes_adapter` says whether this head has an adapter.
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
    """Replaces the model's classifier by a frozen copy of `classifier`, in place.

    classifier: nn.Linear with the model's number of classes.
    adapter: for embeddings of different widths: 'linear' (a layer trained with the model) or 'none' (an error).
    Raises UsageError for different widths with 'none', and for a model without a linear classifier.
    """
    width = get_classifier(model).in_features
    check_widths(width, classifier.in_features, adapter)
    set_classifier(model, TeacherHead(classifier, width))


def check_widths(s_dim, t_dim, adapter, shared="the classifier reads", own="the embedding has"):
    """Raises UsageError if the widths differ and there is no adapter.

    s_dim: width of the embedding. t_dim: input width of the classifier, or width of the other embedding.
    adapter: 'linear' or 'none'.
    shared, own: the message's words for the two.
    """
    if s_dim != t_dim and adapter == "none":
        raise UsageError(f"{shared} {t_dim} features and {own} {s_dim}: use --th_adapter linear, or networks of one "
                         "width, such as resnet32x4 and resnet8x4, resnet56 and resnet20, wrn_40_2 and wrn_16_2")


def set_classifier(model, classifier):
    """Replaces the final linear layer of a model of the zoo, in place."""
    model = unwrap(model)
    parent, _, name = model.head.rpartition(".")
    setattr(model.get_submodule(parent), name, classifier)
