"""What every network of the zoo shares: the forward contract, the stage, the weight initialisation."""
from torch import nn
from torch.nn import functional as F


class Backbone(nn.Module):
    """A stem, stages, an average over the last map, and a linear classifier.

    A subclass names its classifier in `head` and implements `trunk`. If the embedding is not the average of the deepest
    map itself, the subclass also overrides `ending`.

    model(x)                             -> logits (B, K), from x (B, 3, H, W) of any size
    model(x, is_feat=True)               -> ([stem map, stage maps ..., embedding (B, D)], logits)
    model(x, is_feat=True, preact=True)  -> the same with the stage maps before their ReLU, for losses on signs or
                                            margins (AB, OFD)
    model(x, is_feat=True, depth=2)      -> ([stem map, first stage's map], None); the rest is not computed
    """

    name: str  # the registered name, set by models.create_model
    head = "fc"  # where the final nn.Linear is

    def trunk(self, x):
        """Yields pairs (map, before) of x (B, 3, H, W), as they are computed.

        map: the stem's map, then each stage's (B, C, H, W).
        before: a stage map before its ReLU, or None. The entries that are not None are the stage maps in order. An
            entry may belong to an earlier map than the one beside it: wrn computes it in the next stage.
        """
        raise NotImplementedError

    def pooled_map(self, f):
        """The map whose global average is the embedding, from f = feats[-2] (without preact): (B, C, H, W) -> same."""
        return self.ending(f)[0]

    def ending(self, f):
        """(map whose average is the embedding, before), from f as in pooled_map.

        before: the last stage map before its ReLU if `trunk` did not yield it, else None.
        """
        return f, None

    def forward(self, x, is_feat=False, preact=False, depth=None):
        maps, befores = [], []
        for f, before in self.trunk(x):
            maps.append(f)
            befores.append(before)
            if len(maps) == depth:
                return maps, None
        pooled, before = self.ending(maps[-1])
        embedding = pooled.mean((2, 3))  # (B, D, H, W) -> (B, D): equals the published fixed-size pools, at any size
        logits = self.get_submodule(self.head)(embedding)
        if not is_feat:
            return logits
        if preact:
            maps[1:] = [before for before in (*befores, before) if before is not None]
        return [*maps, embedding], logits


class Stage(nn.Sequential):
    """Blocks of one stage; each block returns its output before the final ReLU.

    Shapes: x (B, C_in, H_in, W_in) -> (output (B, C, H, W), the same before its ReLU).
    """

    def forward(self, x):
        *early, last = self
        for block in early:
            x = F.relu(block(x), inplace=True)
        before = last(x)
        return F.relu(before), before  # not in place: callers may get `before`


def conv3x3(c_in, c_out, stride=1, groups=1):
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(c_in, c_out, stride=1, groups=1):
    return nn.Conv2d(c_in, c_out, 1, stride, groups=groups, bias=False)


def init_convolutions(model):
    """Draws every convolution's weights from a normal with std sqrt(2 / (k*k*C_out)) (He et al. 2015, fan-out).

    Biases of convolutions become zero. BatchNorm (1, 0) and nn.Linear keep PyTorch's defaults.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
