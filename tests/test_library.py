"""The packages as a library: no script, no command line."""
from pathlib import Path

import torch

from dataset import Batch
from distiller_zoo import DistillKL, Features, get_method, make_terms
from flags import Options
from helper.device import choose_device
from helper.objective import Objective
from models import create_model, load_model
from tasks import CLASSIFICATION

STORED = Path(__file__).parent / "files_of_1_0" / "teachers" / "teacher"


def batch(index):
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8), index)


def test_a_trained_network_from_its_directory():
    model = load_model(STORED).eval()
    feats, logits = model(torch.zeros(2, 3, 16, 16), is_feat=True)
    assert [tuple(f.shape) for f in feats] == [(2, 16, 16, 16), (2, 16, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4), (2, 64)]
    assert torch.equal(model(torch.zeros(2, 3, 16, 16)), logits)


def test_a_loss_alone():
    z_s, z_t = torch.randn(4, 10, requires_grad=True), torch.randn(4, 10)
    loss = DistillKL(T=4.0)(z_s, z_t)
    loss.backward()
    assert loss > 0
    assert z_s.grad.any()
    assert DistillKL(T=4.0)(z_s=z_t, z_t=z_t).item() == 0
    torch.testing.assert_close(DistillKL(T=4.0)(z_t=z_t, z_s=z_s), loss)  # keywords


def test_a_method_in_a_loop_of_ones_own():
    torch.manual_seed(0)
    teacher, student = load_model(STORED).eval(), create_model("resnet14", 10)
    method, _ = get_method("attention").build(student, teacher, image_size=16, num_classes=10)
    optimizer = torch.optim.SGD([*student.parameters(), *method.parameters()], lr=0.01)
    losses = []
    for _ in range(3):
        images, target, *_ = data = batch(torch.arange(8))
        with torch.no_grad():
            t = Features(*teacher(images, is_feat=True))
        s = Features(*student(images, is_feat=True))
        loss = torch.nn.functional.cross_entropy(s.logits, target) + 1000 * method(s, t, data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[-1] > 0


def test_the_whole_objective_in_a_loop_of_ones_own():
    """All terms with the published weights, a modifier, modules that learn, and what is evaluated afterwards."""
    torch.manual_seed(0)
    teacher, student = load_model(STORED), create_model("wrn_16_1", 10)
    composition = get_method("crd+th")
    opt = composition.defaults(image_size=16, num_classes=10, n_data=40, targets=torch.arange(40) % 10, nce_k=8)
    method, modifiers = composition.build(student, teacher, opt)
    terms = make_terms(CLASSIFICATION.criterion, opt, method, modifiers)
    objective = Objective(student, choose_device("cpu", "fp32"), terms, teacher, method, modifiers).train()
    optimizer = torch.optim.SGD(objective.trained_parameters(), lr=0.05)
    for _ in range(2):
        losses = objective(batch(torch.arange(8)))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert list(losses.terms) == ["ce", "method", "th"]
    assert isinstance(opt, Options)
    assert objective.deployed().eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
