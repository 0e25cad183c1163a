"""Mutual learning's updates, and what methods with heads keep: frozen ones, counts of epochs."""
import pytest
import torch
from torch import nn

from distiller_zoo import make_terms
from distiller_zoo.dml import DMLLoss, DMLMethod
from distiller_zoo.epochs import EpochCounter
from errors import UsageError
from helper.objective import Objective
from models import create_model
from models.features import Features
from models.norm import BatchNorm2d, freeze_bn_statistics
from models.tuned import OutOfState, heads_hash
from tasks import CLASSIFICATION
from tests.distiller_zoo.pairs import CLASSES, CPU, batch_of, options


def mutual(peers=("resnet8", "resnet14"), **given):
    torch.manual_seed(0)
    settings = {"peers": list(peers), "model_s": "resnet8", "image_size": 8, "n_data": 50, "gamma": 0.7, "beta": 0.3,
                "kd_T": 2.0}
    opt = options(DMLMethod, **(settings | given))
    student = create_model("resnet8", CLASSES)
    return student, DMLMethod(student, None, opt)


def batches_seen(network):
    return {int(layer.num_batches_tracked) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}


def test_one_update_of_the_statistics_per_batch():
    """The passes in which a network only tells the others what it thinks leave its statistics alone."""
    student, method = mutual()
    terms = make_terms(CLASSIFICATION.criterion, options(DMLMethod), method)
    objective = Objective(student, CPU, terms, method=method).train()
    assert objective.updates == method.updates == 3
    for count in (1, 2):
        batch = batch_of(4, 8, seed=count)
        objective(batch)
        for update in range(1, objective.updates):
            objective(batch, update)
        assert [batches_seen(network) for network in (student, *method.peers)] == [{count}] * 3


def test_still_statistics():
    torch.manual_seed(0)
    layer, x = BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    before = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    with freeze_bn_statistics(layer):
        still = layer(x)
    assert all(torch.equal(tensor, before[key]) for key, tensor in layer.state_dict().items())
    assert torch.equal(still, layer(x))
    assert layer.num_batches_tracked == 1
    with pytest.raises(ZeroDivisionError), freeze_bn_statistics(layer):
        _ = 1 / 0
    assert layer.track_running_stats


def test_what_trains_is_the_loss():
    student, method = mutual()
    batch = batch_of(4, 8)
    s = Features(*student(batch.images, is_feat=True))
    with torch.no_grad():
        z_1, z_2 = (peer(batch.images) for peer in method.peers)
    loss = DMLLoss(0.3, 2.0)  # gamma is 1 - 0.3
    ce = nn.functional.cross_entropy(s.logits, batch.target)
    torch.testing.assert_close(0.7 * ce + 0.3 * method(s, None, batch), loss(s.logits, [z_1, z_2], batch.target))
    torch.testing.assert_close(method.update_loss(2, s, batch), loss(z_2, [s.logits, z_1], batch.target))
    paper = DMLLoss(1.0, 2.0, gamma=1.0)(s.logits, [z_1], batch.target)
    torch.testing.assert_close(paper, ce + loss.divergence(s.logits, [z_1]))


def test_an_update_trains_its_network_alone():
    student, method = mutual()
    batch = batch_of(4, 8)
    s = Features(*student(batch.images, is_feat=True))
    assert method.updates == 3
    for update in (1, 2):
        method.zero_grad()
        method.update_loss(update, Features(s.feats, s.logits.detach()), batch).backward()
        reached = [any(p.grad is not None and p.grad.any() for p in peer.parameters()) for peer in method.peers]
        assert reached == [update == 1, update == 2]
    assert all(p.grad is None for p in student.parameters())


@pytest.mark.parametrize(("peer", "given", "message"), [
    ("vgg8", {"image_size": 4}, "model 'vgg8' cannot take 4x4 images"),
    ("MobileNetV2", {"image_size": 16, "n_data": 9}, "leaves a last batch of one image, whose 1x1 maps in MobileNetV2"),
])
def test_peers_that_cannot_take_the_images(peer, given, message):
    with pytest.raises(UsageError, match=message):
        mutual([peer], **given)


def test_out_of_state():
    """It moves with its holder, and nothing of it is trained or saved there."""
    holder = nn.Module()
    holder.heads = OutOfState(nn.Linear(2, 3).eval().requires_grad_(False), "1a2b3c")
    assert holder.heads.hash == heads_hash(holder) == "1a2b3c"
    assert heads_hash(nn.Linear(2, 3)) is None
    assert (list(holder.parameters()), holder.state_dict(), holder.heads.module.training) == ([], {}, False)
    holder.double().train()
    assert holder.heads.module.weight.dtype == torch.float64
    assert not holder.heads.module.training
    x = torch.ones(1, 2, dtype=torch.float64)
    assert torch.equal(holder.heads(x), holder.heads.module(x))


def test_epochs_are_counted_through_a_resume():
    counter = EpochCounter(10)
    assert [int(counter(size)) for size in (4, 4, 2, 4)] == [1, 1, 1, 2]
    resumed = EpochCounter(10)
    resumed.load_state_dict(counter.state_dict())
    assert [int(resumed(size)) for size in (4, 2, 4)] == [2, 2, 3]
    resumed.eval()
    assert [int(resumed(10)) for _ in range(2)] == [3, 3]
