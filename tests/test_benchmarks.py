"""The benchmarks run, and the plain path computes what the fast one does. Nothing is timed."""
import json
import re
from types import SimpleNamespace

import pytest
import torch

from benchmarks import speed
from benchmarks.plain import GatheringCRD
from crd import CRDLoss
from errors import UsageError
from models import create_model
from models.features import Features
from tests.distiller_zoo.pairs import batch_of


def test_speed(tmp_path, capsys):
    file = tmp_path / "speed.json"
    speed.main(["--pair", "resnet8:resnet8", "--method", "kd,dih", "--steps", "1", "--rounds", "1", "--batch_size", "8",
                "--workers", "0", "--skip_memory", "--json", str(file)])
    kd, dih = json.loads(file.read_text())["rows"]
    assert kd["fast img/s"] > 0 < kd["fast over plain"]
    assert dih["method"] == "dih"
    assert dih["time over kd"] > 0
    assert kd["fast MB"] is None
    out = capsys.readouterr().out
    assert out.count("| resnet8 -> resnet8 |") == 2
    assert "between the last step of an epoch and the first of the next" in out


@pytest.mark.parametrize(("flags", "message"), [
    ("--pair resnet20", "'resnet20' is not TEACHER:STUDENT"),
    ("--pair resnet20:resnet9", "unknown model 'resnet9'"),
    ("--method kd,nope", "unknown method 'nope'"),
    ("--steps 0", "0 is below 1"),
    ("--precision xx", "invalid choice: 'xx'"),
    ("--json nowhere/x.json", "there is no folder nowhere"),
    ("--profile nowhere/x.json", "there is no folder nowhere"),
])
def test_bad_flags_are_refused_before_anything_is_measured(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        speed.main(flags.split())


def test_the_plain_crd_is_ours():
    """Gathered or multiplied: the same loss, gradient and bank."""
    opt = SimpleNamespace(image_size=8, n_data=40, feat_dim=16, nce_k=8, nce_t=0.07, nce_m=0.5, num_classes=10,
                          targets=torch.arange(40) % 10)
    networks, batch = [create_model("resnet8", 10) for _ in range(2)], batch_of(4, 8)
    plain = GatheringCRD(*networks, opt)
    ours = CRDLoss(64, 64, 40, feat_dim=16, nce_k=8)
    ours.load_state_dict(plain.loss.state_dict())
    plain.contrasted = torch.cat([batch.index[:, None], torch.randint(40, (4, 8))], dim=1)
    f_s, f_t = torch.randn(4, 64, requires_grad=True), torch.randn(4, 64)
    for _ in range(2):
        loss = plain(Features([f_s], None), Features([f_t], None), batch)
        expected = ours(f_s, f_t, batch.index, plain.contrasted)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        torch.testing.assert_close(*(torch.autograd.grad(x, f_s)[0] for x in (loss, expected)))
    torch.testing.assert_close(plain.loss.contrast.memory_v1, ours.contrast.memory_v1)
