"""Tuned heads through the entry scripts: what they leave alone, how the best are chosen, which are refused."""
import json
import re
import shlex
import shutil

import pytest
import torch
import torch.nn.functional as F

import evaluate
import train_heads
import train_student
import train_teacher
from dataset import make_loader
from errors import UsageError
from helper import build, opened
from helper.tuning import TunedHeads
from models import load_model, read_checkpoint
from models.checkpoint import save_checkpoint
from models.heads import Heads
from tasks import CLASSIFICATION
from tests.conftest import TINY, build_tiny, recorded

TUNE = [*TINY, "--learning_rate", "0.001"]
SMALL = ["--image_size", "8"]  # convolutions of 256 channels take their time


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def teacher(teacher_dir, tmp_path):
    """A copy of teacher_dir without heads."""
    directory = tmp_path / "resnet8_vanilla"
    directory.mkdir()
    shutil.copy(teacher_dir / "last.pth", directory)
    return directory


@pytest.fixture
def tuned(teacher_dir, tmp_path):
    """A copy of teacher_dir with its heads."""
    return shutil.copytree(teacher_dir, tmp_path / "resnet8_vanilla")


def distil(teacher, method, save, *args):
    """The directory of a run of one short epoch."""
    train_student.main([*TINY, "--path_t", str(teacher), "--distill", method, "--model_s", "resnet8",
                        "--skip_validation", "--save_dir", str(save), "--name", "run", *map(str, args)])
    return save / "students" / "run"


# Tuning

@pytest.mark.parametrize("kind", ["flat", "conv", "sepconv"])
def test_the_network_is_left_as_it_is(teacher, monkeypatch, kind):
    """To the bit, BatchNorm's statistics and counters included."""
    kept = []

    def make_teacher(*args):
        made = opened.make_teacher(*args)
        kept.append((made.network, {key: tensor.clone() for key, tensor in made.network.state_dict().items()}))
        return made

    monkeypatch.setattr(train_heads, "make_teacher", make_teacher)
    before = (teacher / "last.pth").read_bytes()
    train_heads.main([*TUNE, *SMALL, "--path_t", str(teacher), "--head_type", kind])
    (network, state), = kept
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert (teacher / "last.pth").read_bytes() == before
    assert not network.training


def test_scores_are_means_over_the_images(teacher, monkeypatch):
    """Of every head, whatever batches the images come in; 100 of them do not fill the last one here."""
    monkeypatch.setattr(build, "EVAL_PIXELS", {"cpu": 30 * 16**2})
    train_heads.main([*TUNE, "--path_t", str(teacher)])
    row, = rows(teacher / "heads")
    data = build_tiny(None, None, None)
    loader = make_loader(data, data.test, kind="device", batch_size=100, train=False, device=torch.device("cpu"))
    batch, = loader
    network = load_model(teacher).eval()
    heads = Heads([(16, 16, 16), (32, 8, 8), (64, 4, 4)], None, 10)
    saved = read_checkpoint(teacher / "heads.pth")
    heads.load_state_dict(saved["heads"])
    with torch.no_grad():
        feats, _ = network(batch.images, is_feat=True)
        logits = heads(feats[1:-1])
    losses = [F.cross_entropy(z, batch.target).item() for z in logits]
    hits = [100 * (z.argmax(1) == batch.target).double().mean().item() for z in logits]
    assert [row[f"test_head{stage}_loss"] for stage in (1, 2, 3)] == pytest.approx(losses, rel=1e-4)
    assert [row[f"test_head{stage}_acc"] for stage in (1, 2, 3)] == pytest.approx(hits, abs=1e-3)
    assert saved["loss"] == pytest.approx(losses, rel=1e-4)
    assert row["test_acc"] == pytest.approx(sum(hits) / 3, abs=1e-3)


def test_each_head_is_of_its_best_epoch():
    tuned = TunedHeads(Heads([(2, 2, 2), (2, 1, 1)], None, 3))
    for epoch, losses in enumerate([(2.0, 1.0), (1.0, 1.5), (1.5, 1.0)], 1):
        with torch.no_grad():
            for parameter in tuned.heads.parameters():
                parameter.fill_(epoch)
        row = {f"val_head{i}_{key}": value for i, loss in enumerate(losses, 1)
               for key, value in (("loss", loss), ("acc", 10 * epoch))}
        tuned.keep_best(row | {"epoch": epoch}, "val", CLASSIFICATION)
    assert tuned.best_epoch.tolist() == [2, 1]  # the earlier of two that are alike
    assert (tuned.best_loss.tolist(), tuned.best_acc.tolist()) == ([1, 1], [20, 10])
    assert [tuned.best[stage].linear.bias[0].item() for stage in "12"] == [2, 1]


def test_held_out_images_choose(teacher):
    train_heads.main([*TUNE, "--path_t", str(teacher), "--holdout", "3", "--epochs", "2"])
    history, saved = rows(teacher / "heads"), read_checkpoint(teacher / "heads.pth")
    for i, stage in enumerate(saved["stages"]):
        best = min(history, key=lambda row, stage=stage: row[f"val_head{stage}_loss"])
        assert (saved["epoch"][i], saved["loss"][i]) == (best["epoch"], best[f"val_head{stage}_loss"])


def test_a_finished_run_writes_a_lost_file_again(tuned, monkeypatch, capsys):
    before = read_checkpoint(tuned / "heads.pth")
    (tuned / "heads.pth").unlink()
    train_heads.main([*TUNE, "--path_t", str(tuned), "--skip_validation"])
    assert "all 1 epochs were done before" in capsys.readouterr().out
    after = read_checkpoint(tuned / "heads.pth")
    assert (after["hash"], after["loss"]) == (before["hash"], before["loss"])


def test_other_options_need_another_name(command, tuned):
    status, _, err = command(train_heads, *TUNE, "--path_t", tuned, "--skip_validation", "--batch_size", "16")
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith("batch_size = 32, not 16: pass --overwrite to start it anew, or another --name\n")


# Distilling with them

def test_every_kind_has_its_place(teacher, tmp_path):
    for kind in ("flat", "sepconv", "conv"):
        train_heads.main([*TUNE, *SMALL, "--path_t", str(teacher), "--head_type", kind, "--skip_validation"])
    files = {"flat": "heads.pth", "sepconv": "heads_sepconv.pth", "conv": "heads_conv.pth"}
    saved = {kind: read_checkpoint(teacher / file) for kind, file in files.items()}
    assert {kind: heads["kind"] for kind, heads in saved.items()} == {kind: kind for kind in files}
    assert not list((teacher / "heads").glob("ckpt_epoch_*"))
    for method, kind, *more in (("dih", "flat"), ("tofd", "sepconv"), ("mhkd", "conv", "--path_heads", teacher)):
        run = distil(teacher, method, tmp_path / method, *SMALL, *more)
        assert recorded(run)["inputs"]["heads"] == saved[kind]["hash"]
    run = distil(teacher, "mhkd", tmp_path / "own", *SMALL)  # heads that learn with the student
    assert "heads" not in recorded(run)["inputs"]


def test_tuned_heads_do_not_learn(teacher, tmp_path):
    train_heads.main([*TUNE, *SMALL, "--path_t", str(teacher), "--head_type", "conv", "--skip_validation"])
    before = (teacher / "heads_conv.pth").read_bytes()
    run = distil(teacher, "mhkd", tmp_path, *SMALL, "--path_heads", teacher / "heads_conv.pth")
    assert (teacher / "heads_conv.pth").read_bytes() == before
    assert {key.split(".")[0] for key in read_checkpoint(run)["method"]} == {"heads_s"}
    run = distil(teacher, "mhkd", tmp_path / "own", *SMALL)
    assert {key.split(".")[0] for key in read_checkpoint(run)["method"]} == {"heads_s", "heads_t"}


@pytest.mark.parametrize("args", [
    ["dih", "--dih_alpha", "0,0.1,0.2,0.3"], ["dih", "-a", "1"], ["dih", "--head_stages", "1,3"],
    ["dih", "--dih_reduction", "mean"], ["mhkd", "--mhkd_alpha", "0", *SMALL], ["mhkd", "--mhkd_faithful", *SMALL],
    ["tofd", "--tofd_faithful"], ["tofd", "--head_stages", "1"], ["tofd+th"], ["dih+th", "--th_inference"],
], ids=" ".join)
def test_variants_train(teacher_dir, tmp_path, args):
    row, = rows(distil(teacher_dir, args[0], tmp_path, *args[1:]))
    assert 0 < row["train_loss"] < 100


def test_the_published_exit_of_tofd(teacher_dir, tmp_path):
    """One more exit of the student's, and a link less: its own end has none."""
    links = {}
    for faithful in (0, 1):
        run = distil(teacher_dir, "tofd", tmp_path / str(faithful), "--tofd_faithful", faithful)
        state = read_checkpoint(run)["method"]
        links[faithful] = ({key.split(".")[1] for key in state if key.startswith("heads_s.")},
                           sum(key.startswith("loss.links.") for key in state))
    assert links == {0: ({"1", "2"}, 3), 1: ({"1", "2", "3"}, 3)}


# Refusals

@pytest.fixture
def refused(command, tmp_path):
    """refused(teacher, method, *flags): the message of a refusal that wrote nothing."""

    def call(teacher, method, *flags):
        save = tmp_path / "save"
        status, _, err = command(train_student, *TINY, "--path_t", teacher, "--distill", method, "--model_s", "resnet8",
                                 "--skip_validation", "--save_dir", save, *flags)
        assert (status, err.count("\n")) == (2, 1), err
        assert not save.exists()
        return err

    return call


def advised(message):
    """The arguments of the command that a refusal advises."""
    return shlex.split(re.search(r"\(python train_heads\.py (.*?)\)", message)[1])


def follow(message):
    train_heads.main([*advised(message), *TINY[2:], "--learning_rate", "0.001", "--skip_validation"])


@pytest.mark.parametrize("method", ["dih", "tofd"])
def test_missing_heads(teacher, refused, tmp_path, method):
    message = refused(teacher, method)
    assert f"there is no {teacher / ('heads.pth' if method == 'dih' else 'heads_sepconv.pth')}" in message
    follow(message)
    distil(teacher, method, tmp_path)


def test_heads_of_another_teacher(tuned, refused, tmp_path):
    train_teacher.main([*TINY, "--model", "resnet8", "--save_dir", str(tmp_path), "--name", "other", "--seed", "5"])
    shutil.copy(tmp_path / "teachers" / "other" / "last.pth", tuned)
    message = refused(tuned, "dih")
    assert "has heads of another teacher (resnet8, " in message
    assert "--overwrite" in advised(message)
    follow(message)
    distil(tuned, "dih", tmp_path)


@pytest.mark.parametrize(("method", "file", "kind"), [("dih", "heads_sepconv", "flat"), ("tofd", "heads", "sepconv"),
                                                      ("mhkd", "heads", "conv")])
def test_heads_of_another_kind(tuned, refused, method, file, kind):
    message = refused(tuned, method, "--path_heads", tuned / f"{file}.pth")
    assert f"{method} takes {kind}" in message
    assert message.endswith("and leave out --path_heads\n")


def test_stages_without_heads(teacher, refused, tmp_path):
    train_heads.main([*TUNE, "--path_t", str(teacher), "--head_stages", "1,3", "--skip_validation"])
    message = refused(teacher, "dih", "--head_stages", "1,2")
    assert "heads.pth has heads for stages [1, 3], not for [2]" in message
    follow(message)
    distil(teacher, "dih", tmp_path, "--head_stages", "1,2")


def test_heads_for_other_images(tuned, refused, tmp_path):
    message = refused(tuned, "dih", "--image_size", "24")
    assert "heads for maps [(16, 16, 16)," in message
    assert advised(message)[-3:] == ["--image_size", "24", "--overwrite"]
    follow(message)
    distil(tuned, "dih", tmp_path, "--image_size", "24")


def drop_weight(saved):
    del saved["heads"]["1.linear.weight"]


def spoil(saved):
    saved["heads"]["2.linear.bias"][0] = float("nan")


@pytest.mark.parametrize(("damage", "reason"), [
    (drop_weight, 'is damaged (Missing key(s) in state_dict: "1.linear.weight"'),
    (lambda saved: saved.pop("stages"), "holds no tuned heads"),
    (lambda saved: saved.update(heads=None), "is damaged"),
    (spoil, "has weights that are not finite"),
    (lambda saved: saved["heads"].update({"1.linear.weight": torch.zeros(3)}), "is damaged (size mismatch"),
], ids=["weight", "stages", "nothing", "nan", "shape"])
def test_damaged_heads(tuned, refused, damage, reason):
    saved = dict(read_checkpoint(tuned / "heads.pth"))
    damage(saved)
    save_checkpoint(tuned / "heads.pth", saved)
    assert f"{tuned / 'heads.pth'} {reason}" in refused(tuned, "dih")


def test_a_truncated_file_of_heads(tuned, refused):
    (tuned / "heads.pth").write_bytes((tuned / "heads.pth").read_bytes()[:-2000])
    assert f"{tuned / 'heads.pth'} is truncated" in refused(tuned, "dih")


def test_a_network_is_no_file_of_heads(tuned, refused):
    assert "last.pth holds no tuned heads" in refused(tuned, "dih", "--path_heads", tuned / "last.pth")


@pytest.mark.parametrize(("flags", "message"), [
    (["--distill", "dih", "-a", "2"], "from 0 to 1, and cannot be 2"),
    (["--distill", "dih", "-a", "0"], "every branch has alpha 0"),
    (["--distill", "dih", "--dih_alpha", "0,0,0,0"], "every branch has alpha 0"),
    (["--distill", "dih", "--dih_alpha", "0.1,0.2"], "alpha is given for branches 0, 1, and there are 0"),
    (["--distill", "mhkd", "-a", "1.5"], "from 0 to 1, and cannot be 1.5"),
    (["--distill", "tofd", "--tofd_faithful", "--head_stages", "1"], "leave out --head_stages"),
    (["--distill", "tofd", "--head_stages", "4"], "choose from 1 to 3"),
], ids=str)
def test_flags_that_fit_no_loss(teacher_dir, refused, flags, message):
    assert message in refused(teacher_dir, *flags[1:])


@pytest.mark.parametrize("place", ["heads", "heads.pth", "heads/best.pth"])
def test_heads_are_not_a_network(command, teacher_dir, tmp_path, place):
    status, _, err = command(evaluate, "--path", teacher_dir / place, "--dataset", "tiny")
    assert (status, err.count("\n")) == (2, 1)
    assert "holds heads of a teacher, not a network" in err
    status, _, err = command(train_student, *TINY, "--path_t", teacher_dir / place, "--save_dir", tmp_path / "save")
    assert (status, "holds heads of a teacher" in err) == (2, True)


@pytest.mark.parametrize("name", ["last", "best"])
def test_heads_do_not_take_the_teachers_place(teacher, name):
    before = (teacher / f"{name}.pth").read_bytes() if (teacher / f"{name}.pth").exists() else None
    if before is None:
        shutil.copy(teacher / "last.pth", teacher / f"{name}.pth")
        before = (teacher / f"{name}.pth").read_bytes()
    with pytest.raises(UsageError, match="is there and holds no heads: give another --name"):
        train_heads.main([*TUNE, "--path_t", str(teacher), "--name", name])
    assert (teacher / f"{name}.pth").read_bytes() == before
