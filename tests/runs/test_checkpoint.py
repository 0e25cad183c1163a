"""Files that are whole or absent, copies that stay as they are, and generators that go on where they were."""
import random
import time

import numpy as np
import pytest
import torch

from files import writing
from helper.seeds import random_state, set_random_state
from models import create_model, read_checkpoint
from models.checkpoint import save_checkpoint
from models.probe import weights_hash
from runs.checkpoint import Writer, snapshot


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.pth"
    path.write_bytes(b"old")

    with pytest.raises(OSError, match="disk full"), writing(path) as file:
        file.write(b"half of the new")
        raise OSError("disk full")
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]
    assert path.read_bytes() == b"old"


def test_a_snapshot_stays_as_it_is():
    """Of tensors in dicts, lists and tuples, parameters among them; plain values are handed on."""
    tensors = [torch.zeros(2) for _ in range(3)] + [torch.nn.Parameter(torch.zeros(2))]
    state = {"a": tensors[0], "b": [tensors[1], 1], "c": (tensors[2], "x", None), "d": {"e": (tensors[3],)}}
    copy = snapshot(state)
    with torch.no_grad():
        for tensor in tensors:
            tensor += 1
    found = [copy["a"], copy["b"][0], copy["c"][0], copy["d"]["e"][0]]
    assert all(tensor.tolist() == [0, 0] and not tensor.requires_grad for tensor in found)
    assert (copy["b"][1], copy["c"][1:]) == (1, ("x", None))


def test_a_writer_keeps_the_order_and_tells_what_went_wrong():
    writer, done = Writer(), []
    for i in range(5):
        writer.submit(lambda i=i: time.sleep(0.01 * (5 - i)) or done.append(i))
    writer.wait()
    assert done == [0, 1, 2, 3, 4]
    writer.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.submit(done.append, 5)
    writer.wait()
    assert done == [0, 1, 2, 3, 4]
    writer.submit(lambda: 1 / 0)
    writer.close()  # does not raise


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
