"""Which network a path means."""
import pytest

from models import name_from_path


@pytest.mark.parametrize("path, name", [
    # RepDistiller, SimKD and HeadSharingKD as published
    ("save/models/resnet32x4_cifar100_lr_0.05_decay_0.0005_trial_0/resnet32x4_last.pth", "resnet32x4"),
    ("save/models/wrn_40_2_vanilla/ckpt_epoch_240.pth", "wrn_40_2"),
    ("save/models/ResNet50_vanilla/ckpt_epoch_240.pth", "ResNet50"),
    ("save/teachers/models/MobileNetV2_1_0_vanilla_cifar100_trial_0/x.pth", "MobileNetV2_1_0"),
    ("save/teachers/models/ShuffleV2_1_5_vanilla/x.pth", "ShuffleV2_1_5"),
    ("save/teachers/models/resnext50_32x4d_vanilla/x.pth", "resnext50_32x4d"),
    ("saved_models/resnet8x4_student.pth", "resnet8x4"),
    ("/saved_models/resnet32x4_SHKD.pth", "resnet32x4"),
    # students
    ("S:resnet8x4_T:resnet32x4_cifar100_kd_r:0.1_a:0.9_b:0.0_1/resnet8x4_best.pth", "resnet8x4"),
    ("S:wrn_16_2_T:wrn_40_2_cifar100_kd/wrn_16_2_best.pth", "wrn_16_2"),
    ("S~MobileNetV2_1_0_T~resnet32x4_cifar100_simkd/x.pth", "MobileNetV2_1_0"),
    ("save/students/S-resnet8_T-resnet20-1a2b3c_cifar100_kd_r-0.1_a-0.9_b-0/last.pth", "resnet8"),
    ("S-unheard_T-resnet20_cifar100_kd/last.pth", None),  # never the teacher
    # torchvision, with / spelled as .
    ("save/teachers/torchvision.resnet18_imagenet/last.pth", "torchvision/resnet18"),
    ("S-torchvision.mobilenet_v3_small_T-ResNet50_kd/last.pth", "torchvision/mobilenet_v3_small"),
    # aliases, bare file names, names inside a longer one
    ("WR-28-2/checkpoint.pth", "wrn_28_2"),
    ("res18.pth", "ResNet18"),
    ("resnet20.pth", "resnet20"),
    ("my_resnet20_from_resnet110/last.pth", "resnet20"),
    ("resnet8x44/last.pth", None),
    ("xresnet8/last.pth", None),
    ("last.pth", None),
])
def test_name_from_path(path, name):
    assert name_from_path(path) == name
