"""A classifier put into every family of networks: saved, and read back as a plain network."""
import pytest
import torch
from torch import nn

from models import create_model, get_classifier, load_model
from models.shared_head import TeacherHead, share_head

FAMILIES = ["resnet8", "ResNet18", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "MobileNetV2_Imagenet",
            "torchvision/resnet18"]


@torch.no_grad()
@pytest.mark.parametrize("width", ["equal", "unequal"])
@pytest.mark.parametrize("name", FAMILIES)
def test_saved_and_read_back(name, width, tmp_path):
    torch.manual_seed(0)
    model = create_model(name, 5).eval()
    classifier = nn.Linear(get_classifier(model).in_features + (width == "unequal"), 5)
    share_head(model, classifier)
    head = get_classifier(model)
    assert isinstance(head, TeacherHead)
    assert (head.adapter is None) == (width == "equal")
    path = tmp_path / "file.pth"
    torch.save({"arch": name, "model": model.state_dict()}, path)
    loaded, x = load_model(path).eval(), torch.randn(2, 3, 32, 32)
    assert type(get_classifier(loaded)) is nn.Linear
    assert loaded.state_dict().keys() == create_model(name, 5).state_dict().keys()
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
