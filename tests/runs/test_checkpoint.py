"""Files that are whole or absent, and generators that go on where they were."""
import random

import numpy as np
import pytest
import torch

from files import writing
from helper.seeds import random_state, set_random_state
from models import create_model, read_checkpoint
from models.checkpoint import save_checkpoint
from models.probe import weights_hash


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.pth"
    path.write_bytes(b"old")

    with pytest.raises(OSError, match="disk full"), writing(path) as file:
        file.write(b"half of the new")
        raise OSError("disk full")
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]
    assert path.read_bytes() == b"old"


def test_random_generators_survive_a_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "state.pth", {"rng": random_state()})
    first = random.random(), np.random.rand(), torch.rand(()).item(), np.random.randn()
    set_random_state(read_checkpoint(tmp_path / "state.pth")["rng"])
    assert first == (random.random(), np.random.rand(), torch.rand(()).item(), np.random.randn())


def test_equal_weights_have_equal_hashes():
    torch.manual_seed(0)
    model = create_model("resnet8", 10)
    copy = create_model("resnet8", 10)
    assert weights_hash(model) != weights_hash(copy)
    copy.load_state_dict(model.state_dict())
    assert weights_hash(model) == weights_hash(copy.to(memory_format=torch.channels_last))
