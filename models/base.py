"""What every network of the zoo shares: the forward contract, the stage, the weight initialisation."""
from torch import nn
from torch.nn import functional as F


class Backbone(nn.Module):
    """A stem, stages, an average over the last map, and a linear classifier.

    A subclass names its classifier in `head` and implements `trunk`; where the classifier does not average the deepest
    map itself, it overrides `ending` as well.

    model(x)                             -> logits (B, K), from x (B, 3, H, W) of any size
    model(x, is_feat=True)               -> ([stem map, stage maps ..., embedding (B, D)], logits)
    model(x, is_feat=True, preact=True)  -> the same with the stage maps before their ReLU, for the losses that match
                                            signs or margins (AB, OFD)
    model(x, is_feat=True, depth=2)      -> ([stem map, first stage's map], None): nothing beyond them is computed
    """

    name: str  # the registered name, set by models.create_model
    head = "fc"  # where the final nn.Linear is

    def trunk(self, x):
        """x (B, 3, H, W) -> pairs (map, before), one after the other as they are computed.

        map: the stem's and each stage's (B, C, H, W). before: the next stage map before its ReLU, once it is known,
        else None.
        """
        raise NotImplementedError

    def pooled_map(self, f):
        """The map whose global average is the embedding, from f = feats[-2] (without preact): (B, C, H, W) -> same."""
        return self.ending(f)[0]

    def ending(self, f):
        """(pooled map, the last stage map before its ReLU if trunk did not give it or None), from f as pooled_map."""
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
    """Blocks of one stage, each giving its output before the final ReLU. x -> (output, output before its ReLU)."""

    def forward(self, x):
        *early, last = self
        for block in early:
            x = F.relu(block(x), inplace=True)
        before = last(x)
        return F.relu(before), before  # not in place: `before` may be handed out


def conv3x3(c_in, c_out, stride=1, groups=1):
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(c_in, c_out, stride=1, groups=1):
    return nn.Conv2d(c_in, c_out, 1, stride, groups=groups, bias=False)


def init_convolutions(model):
    """Normal with std sqrt(2 / (k*k*C_out)) for every convolution (He et al. 2015, fan-out), zero for its bias.

    BatchNorm (1, 0) and nn.Linear keep PyTorch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
