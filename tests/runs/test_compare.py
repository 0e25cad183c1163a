"""Two classifiers compared: the published numbers, and answers worked out by hand."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dataset import Batch
from errors import UsageError
from helper.device import choose_device
from helper.loop import evaluate
from models import create_model, get_classifier
from models.shared_head import TeacherHead, set_classifier
from runs.compare import (
    check_targets,
    compare,
    compare_biases,
    compare_weights,
    cosines,
    describe,
    draw,
    label,
    predictions,
    similarity_correlation,
)
from tasks import CLASSIFICATION
from tests.golden import classic
from tests.models.test_networks import fill


@pytest.fixture
def opt(tmp_path):
    """The options that the text and the picture look at, of two files by their usual names."""
    return SimpleNamespace(path_a="runs/a_$1$/last.pth", path_b="runs/b/best.pth", plot=str(tmp_path / "heads.png"),
                           json=None, save_dir=str(tmp_path / "save"))


@pytest.mark.parametrize("case", classic["misc"]["ModelTH"], ids=lambda case: str(case["seed"]))
def test_numbers_are_the_published_ones(case):
    student, teacher = create_model(case["student"], 100), create_model(case["teacher"], 100)
    fill(student, case["student_fill_seed"])
    fill(teacher, case["teacher_fill_seed"])
    own, shared = get_classifier(student), get_classifier(teacher)
    if case["do_init_s_from_th"]:
        own.load_state_dict(shared.state_dict())
    numbers = compare(student, teacher)
    # The published ones are float32: cosines of a classifier with itself have a deviation of 8e-8 there.
    assert numbers["weights"] == pytest.approx(case["compare_weights"], rel=1e-5, abs=1e-6)
    assert numbers["biases"] == pytest.approx(case["compare_biases"], rel=1e-5, abs=1e-6)


def test_rows_by_hand():
    a = torch.tensor([[1.0, 0], [0, 2], [3, 3], [0, 0]])
    b = torch.tensor([[5.0, 0], [0, -1], [0, 1], [1, 1]])
    half = 0.5**0.5
    assert cosines(a, b).diagonal().tolist() == pytest.approx([1, -1, half, 0])
    assert compare_weights(a, b)["mean_abs"] == pytest.approx((2 + half) / 4)
    assert compare_biases(torch.tensor([3.0, 0]), torch.tensor([0.0, 4])) == pytest.approx(
        {"l2": 5, "abs": 3.5, "cos": 0})
    assert compare_biases(torch.zeros(2), torch.ones(2))["cos"] == 0


def test_class_similarities_do_not_depend_on_the_width():
    a = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    turned = torch.linalg.qr(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)))[0]  # (9, 4), columns of 1
    scale = torch.arange(1.0, 7)[:, None]
    assert similarity_correlation(a, scale * a @ turned.T) == pytest.approx(1)
    off = ~torch.eye(6, dtype=torch.bool)
    b = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    expected = torch.corrcoef(torch.stack([cosines(a, a)[off], cosines(b, b)[off]]))[0, 1]
    assert similarity_correlation(a, b) == pytest.approx(expected.item())


@pytest.mark.parametrize("weight", [torch.eye(5), torch.ones(5, 3), torch.zeros(5, 3), torch.randn(2, 5),
                                    torch.randn(1, 5)], ids=["orthogonal", "equal", "zero", "two", "one"])
def test_no_correlation_where_there_is_none(weight):
    assert similarity_correlation(weight, torch.randn(len(weight), 5)) is None
    assert similarity_correlation(torch.randn(len(weight), 5), weight) is None


@pytest.mark.parametrize("classes", [1, 2, 10, 30])
@pytest.mark.parametrize("other", ["resnet14", "resnet14x2"])
def test_text_and_picture(classes, other, opt, tmp_path):
    a, b = create_model("resnet8", classes), create_model(other, classes)
    get_classifier(a).register_parameter("bias", None)
    numbers, text = compare(a, b), describe(compare(a, b), opt)
    assert "biases" not in numbers
    assert ("weights" in numbers) == (other == "resnet14") == ("rows of different widths" not in text)
    assert ("similarity_correlation" in numbers) == (classes > 2) == ("no correlation" not in text)
    assert "nan" not in text
    draw(a, b, opt, opt.plot, classes=[f"${i}^" for i in range(classes)])
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


def test_the_text_tells_of_an_adapter(opt):
    a, b = create_model("resnet8", 10), create_model("resnet14", 10)
    head = TeacherHead(get_classifier(create_model("wrn_16_2", 10)), 64)
    set_classifier(a, head.folded())
    first, second, *_ = describe(compare(a, b), opt).splitlines()
    assert first.endswith("(resnet8, 64 features, 10 classes, its classifier including the adapter)")
    assert second.endswith("(resnet14, 64 features, 10 classes)")


def test_picture_of_a_shared_and_of_a_zero_classifier(opt):
    model = create_model("resnet8", 10)
    draw(model, model, opt, opt.plot)
    nn.init.zeros_(get_classifier(model).weight)
    draw(model, create_model("resnet8", 10), opt, opt.plot)


def test_agreement():
    z = torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0], [4.0, 0, 0]])
    turn = nn.Linear(3, 3, bias=False)  # exchanges the last two classes
    turn.weight = nn.Parameter(torch.eye(3)[[0, 2, 1]])
    loader = [Batch(z, torch.tensor([0, 1, 1, 1]), None)]
    scores = evaluate(nn.Identity(), loader, choose_device("cpu", "fp32"), CLASSIFICATION, teacher=turn, detailed=True)
    numbers = predictions(scores)
    assert numbers == {"agreement": 50, "acc_a": 50, "acc_b": 50, "images": 4}


def test_labels(tmp_path):
    assert label(tmp_path) == tmp_path.name
    assert [label(f"runs/kd/{name}.pth") for name in ("last", "best", "ckpt_epoch_240", "resnet8x4_best")] == [
        "kd", "kd_best", "kd_ckpt_epoch_240", "resnet8x4_best"]


def test_default_picture(opt, tmp_path):
    opt.plot = None
    assert check_targets(opt) == tmp_path / "save" / "heads_a_-1-_b_best.png"
    assert not (tmp_path / "save").exists()
    opt.path_a, opt.path_b = "x" * 200 + "a/last.pth", "x" * 200 + "b/last.pth"
    first = check_targets(opt)
    opt.path_a, opt.path_b = opt.path_b, opt.path_a
    assert len(first.name) < 250
    assert first != check_targets(opt)  # long names are told apart


def test_targets_are_tried_and_left_as_they_were(opt, tmp_path):
    opt.json = str(tmp_path / "old.json")
    (tmp_path / "old.json").write_text("{}")
    check_targets(opt)
    assert [file.name for file in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "{}"
    (tmp_path / "folder.png").mkdir()
    for name, message in (("a.gif", "ends in .png or"), ("no/a.png", "No such file"), ("folder.png", "directory")):
        opt.plot = str(tmp_path / name)
        with pytest.raises(UsageError, match=message):
            check_targets(opt)
    opt.plot, opt.save_dir = None, str(tmp_path / "old.json")
    with pytest.raises(UsageError, match="is no folder"):
        check_targets(opt)
