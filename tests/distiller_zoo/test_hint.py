"""FitNet: the regressor's published values and sizes, and its two ways of training."""
import numpy as np
import pytest
import torch

from distiller_zoo.hint import ConvReg, HintLoss, HintMethod
from errors import UsageError
from models import create_model
from tests.distiller_zoo.pairs import batch_of, end_first_stages, features, options
from tests.golden import classic, draw_inputs


def fill(module, block):
    """The module with the parameters that a block of classic.json describes."""
    rs = np.random.RandomState(block["seed"])
    state = module.state_dict()
    for key, shape, rule in block["fill"]:
        drawn = (0.1 * rs.randn(*shape) + (rule == "gamma")).astype(np.float32)
        assert state[key].shape == drawn.shape
        state[key].copy_(torch.from_numpy(drawn))
    return module


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), [(torch.float32, "", 1e-4), (torch.float64, "_f64", 1e-6)])
@pytest.mark.parametrize("key", ["Hint+ConvReg", "Hint+ConvReg_simkd"])
def test_published_values(key, dtype, suffix, tolerance):
    for case in classic["losses"][key]["cases"]:
        f_s, f_t = draw_inputs(case, dtype).values()
        regressor = fill(ConvReg(**case["ctor"]), case["params"][0]).to(dtype)
        loss = HintLoss()(regressor(f_s), f_t)
        loss.backward()
        assert loss.item() == pytest.approx(case["out"]["loss" + suffix], rel=tolerance)
        assert f_s.grad.norm().item() == pytest.approx(case["out"]["grad_norm" + suffix]["f_s"], rel=tolerance)
        norm = torch.stack([p.grad.norm() for p in regressor.parameters()]).norm().item()
        assert norm == pytest.approx(case["out"]["param_grad_norm"], rel=1e-4)


@pytest.mark.parametrize(("s_size", "t_size", "kernel", "size"), [
    (8, 4, 3, 4), (4, 8, 4, 8), (4, 4, 1, 4), (8, 2, 7, 2), (7, 4, 4, 4), (4, 6, 3, 4), (2, 8, 3, 2), (1, 2, 4, 2)])
def test_size_of_the_regressed_map(s_size, t_size, kernel, size):
    regressor = ConvReg((3, s_size, s_size), (2, 5, t_size, t_size))  # both spellings of a shape
    f = regressor(torch.randn(2, 3, s_size, s_size))
    assert regressor.conv.kernel_size == (kernel, kernel)
    assert f.shape == (2, 5, size, size)
    assert f.min() == 0
    assert HintLoss()(f, torch.randn(2, 5, t_size, t_size)).shape == ()


def test_without_relu_the_output_is_normalised():
    f = ConvReg((3, 4, 4), (5, 4, 4), relu=False)(torch.randn(8, 3, 4, 4))
    torch.testing.assert_close(f.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)


def test_a_layer_that_one_network_lacks_is_refused():
    student, teacher = create_model("resnet8", 10), create_model("vgg8", 10)
    with pytest.raises(UsageError, match=r"no map 4 .*64, 8, 8.*512, 4, 4.*--hint_layer 0 to 3"):
        HintMethod(student, teacher, options(HintMethod, hint_layer=4))
    HintMethod(create_model("vgg8", 10), teacher, options(HintMethod, hint_layer=4))


def test_two_stages():
    student, teacher = create_model("resnet8", 10), create_model("resnet14", 10).eval()
    opt = options(HintMethod, hint_stage="two", init_epochs=7, learning_rate=0.2, hint_layer=2)
    method = HintMethod(student, teacher, opt)
    (stage,) = method.stages()
    assert (stage.epochs, stage.learning_rate, stage.freeze) == (7, 0.2, (method.regressor,))
    assert HintMethod(student, teacher, options(HintMethod, init_epochs=7)).stages() == []

    batch = batch_of(4, 32)
    s, t = features(student, teacher, batch)
    stage.loss(s, t, batch).backward()
    reached = {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None}
    assert reached == {"conv1", "bn1", "layer1", "layer2"}  # up to the guided layer
    assert all(p.grad is not None for p in method.parameters())

    assert method.reads is None  # in the main stage
    end_first_stages(method)
    assert not any(p.requires_grad for p in method.parameters())
