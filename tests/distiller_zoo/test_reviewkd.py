"""ReviewKD: the pyramid of its loss, the fusion, which stages meet, the warm-up."""
import pytest
import torch
import torch.nn.functional as F

from distiller_zoo.reviewkd import ABF, HCL, ReviewKDMethod
from tests.distiller_zoo.pairs import batch_of, features, make


def square(f_s, f_t, size):
    return F.mse_loss(F.adaptive_avg_pool2d(f_s, size), F.adaptive_avg_pool2d(f_t, size))


@pytest.mark.parametrize(("height", "levels"), [(8, (4, 2, 1)), (4, (2, 1)), (3, (2, 1)), (2, (1,)), (1, ())])
def test_levels_of_the_pyramid(height, levels):
    f_s, f_t = torch.randn(2, 2, 3, height, height).unbind()
    expected = F.mse_loss(f_s, f_t) + sum(0.5 ** (k + 1) * square(f_s, f_t, size) for k, size in enumerate(levels))
    expected /= sum(0.5**k for k in range(len(levels) + 1))
    torch.testing.assert_close(HCL()([f_s], [f_t]), expected)
    torch.testing.assert_close(HCL()([f_s, f_s], [f_t, f_t]), 2 * expected)


def test_fusion():
    torch.manual_seed(0)
    fusion = ABF(3, 4, 5, fuse=True).eval()
    f_s, deeper = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)
    f, up = fusion.reduce(f_s), deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    share = fusion.attention(torch.cat([f, up], 1))
    fused = f * share[:, :1] + up * share[:, 1:]
    output, passed_on = fusion(f_s, (4, 4), deeper)
    torch.testing.assert_close(passed_on, fused)
    torch.testing.assert_close(output, fusion.expand(fused))
    output, passed_on = fusion(f_s, (8, 8), deeper)
    assert (output.shape, passed_on.shape) == ((2, 5, 8, 8), (2, 4, 8, 8))


@pytest.mark.parametrize(("teacher", "student", "channels"), [
    ("resnet14", "resnet8", [(16, 16), (32, 32), (64, 64), (64, 64)]),
    ("vgg8", "MobileNetV2", [(12, 128), (16, 256), (48, 512), (160, 512), (1280, 512)]),
    ("resnet14", "vgg8", [(256, 16), (512, 32), (512, 64), (512, 64)]),
    ("vgg8", "resnet8", [(16, 256), (32, 512), (64, 512), (64, 512)]),
])
def test_stages_are_paired_from_the_deep_end(teacher, student, channels):
    _, made = make(ReviewKDMethod, teacher, student)
    assert [(f.reduce[0].in_channels, f.expand[0].out_channels) for f in made.fusions] == channels
    assert {f.reduce[0].out_channels for f in made.fusions} == {min(512, channels[-1][0])}
    assert [f.attention is not None for f in made.fusions] == [True] * (len(channels) - 1) + [False]


def test_a_stage_is_taught_by_all_as_deep_or_shallower():
    """Gradients reach a map of the student from its own teacher map and from the shallower ones."""
    objective, made = make(ReviewKDMethod)
    s, t = features(objective.student, objective.teacher, batch_of(2))
    for f in s.feats:
        f.retain_grad()
    maps = []
    made.loss.forward = lambda maps_s, maps_t: maps.extend(maps_s) or maps_s[0].sum()
    made(s, t, None)
    reached = [[g is not None for g in torch.autograd.grad(f.sum(), s.feats[1:], retain_graph=True, allow_unused=True)]
               for f in (maps[0], maps[3])]
    assert reached == [[True] * 4, [True] * 4]  # the embedding's map: through the backbone
    direct = [f.reduce[0].weight for f in made.fusions]
    grads = [torch.autograd.grad(f.sum(), direct, retain_graph=True, allow_unused=True) for f in maps]
    assert [[g is not None for g in row] for row in grads] == [[j >= i for j in range(4)] for i in range(4)]


def test_warm_up():
    objective, made = make(ReviewKDMethod, n_data=8, warmup_epochs=3)
    s, t = features(objective.student, objective.teacher, batch_of(4))
    factors = []
    made.loss.forward = lambda maps_s, maps_t: torch.ones(())
    for _ in range(8):  # two batches an epoch
        factors.append(made(s, t, None).item())
    assert factors == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1, 1])
    assert made.state_dict()["epoch.seen"] == 32
    assert make(ReviewKDMethod, warmup_epochs=0)[1].train()(s, t, None).item() > 0
