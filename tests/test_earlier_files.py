"""Run directories that version 1.0 wrote (files_of_1_0/README.md) are opened, scored, taught with and resumed."""
import json
import shutil
from pathlib import Path

import pytest
import torch

import compare_heads
import evaluate
import train_heads
import train_student
from models import create_model, get_classifier, load_model, open_checkpoint, read_checkpoint
from models.checkpoint import save_checkpoint
from models.deploy import Mixture
from models.probe import weights_hash
from models.reused import ReusedClassifier
from runs.record import RunRecord
from runs.report import find_runs
from scripts import report

FILES = Path(__file__).parent / "files_of_1_0"
COMMON = ["--dataset", "digits", "--image_size", "16", "--batch_size", "128", "--precision", "fp32", "--save_freq", "0"]
TEACHER = "save/teachers/teacher"
DISTIL = ["--path_t", TEACHER, "--skip_validation", "--model_s", "resnet8", *COMMON]
STOPPED = {
    "kd": [*DISTIL, "--distill", "kd", "--epochs", "2"],
    "crd+th": [*DISTIL, "--distill", "crd+th", "--nce_k", "8", "--feat_dim", "4", "--validation_th_weight", "0.5",
               "--epochs", "2"],
}
NETWORKS = sorted(str(file.relative_to(FILES)) for file in FILES.rglob("best.pth"))
IMAGE = 100 / 360  # one of the test images, in %: another CPU may round it to another class


@pytest.fixture(autouse=True)
def save(tmp_path, monkeypatch):
    """A copy of the files as save/ of the working directory, where the records have their teacher."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(FILES, tmp_path / "save"))


def stopped(method):
    """The directory of a student that was stopped, relative to the working directory."""
    (directory,) = Path("save", "students").glob(f"*_{method}_r-*")
    return directory


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def assert_row(found, expected, rel=1e-4):
    """Equal metrics, but for times and another CPU's rounding."""
    assert found.keys() == expected.keys()
    for key in expected.keys() - {"seconds", "images_per_second"}:
        tolerance = {"abs": 1.5 * IMAGE} if "acc" in key else {"rel": rel}
        assert found[key] == pytest.approx(expected[key], **tolerance), key


# Opening and scoring


@pytest.mark.parametrize("file", NETWORKS)
def test_every_network_is_scored_as_it_was(save, file, command):
    metrics = read_checkpoint(save / file)["metrics"]
    assert open_checkpoint(save / file).accuracy == metrics["test_acc"]
    assert load_model(save / file)(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    status, _, err = command(evaluate, "--path", f"save/{file}", "--precision", "fp32", "--json", "scores.json")
    assert status == 0, err
    scores = json.loads(Path("scores.json").read_text())
    assert scores["loss"] == pytest.approx(metrics["test_loss"], rel=1e-4)
    assert scores["acc"] == pytest.approx(metrics["test_acc"], abs=1.5 * IMAGE)
    assert scores["acc_top5"] == pytest.approx(metrics["test_acc_top5"], abs=1.5 * IMAGE)
    assert scores["images"] == 360


def test_what_they_deploy(save):
    kinds = {"simkd": "reused_classifier", "kdth": "shared_head", "dih": "student"}
    opened = {name: open_checkpoint(save / "students" / name) for name in kinds}
    assert {name: checkpoint.deployment.kind for name, checkpoint in opened.items()} == kinds
    assert isinstance(opened["simkd"].deployed(), ReusedClassifier)
    shared = get_classifier(load_model(save / "teachers" / "teacher"))
    assert weights_hash(get_classifier(opened["kdth"].deployed())) == weights_hash(shared)  # --th_inference
    assert weights_hash(get_classifier(opened["kdth"].build())) != weights_hash(shared)
    assert open_checkpoint(stopped("kd")).deployment.is_student
    mixed = open_checkpoint(stopped("crd+th"))
    assert isinstance(mixed.deployed(), Mixture)
    assert mixed.deployment.spec["th_weight"] == 0.5
    assert mixed.choosing(0).deployment.is_student


def test_an_adapter_is_folded(save):
    """Of a teacher with the classifier of a wider network, which is not there any more."""
    state = open_checkpoint(save / "teachers" / "adapter").state
    assert state["fc.adapter.weight"].shape == (256, 64)
    model = load_model(save / "teachers" / "adapter")
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
        key: tensor.shape for key, tensor in create_model("resnet8", 10).state_dict().items()}


def test_another_head_is_chosen(command):
    """The student's own head of a run whose teacher's head predicted; not of one that has no such head."""
    accuracies = []
    for flags in ([], ["--th_inference", "0"], ["--validation_th_weight", "1"]):
        status, _, err = command(evaluate, "--path", "save/students/kdth", "--precision", "fp32", "--json", "s.json",
                                 *flags)
        assert status == 0, err
        accuracies.append(json.loads(Path("s.json").read_text())["loss"])
    assert accuracies[0] == accuracies[2] != accuracies[1]
    for name in ("simkd", "dih"):
        status, _, err = command(evaluate, "--path", f"save/students/{name}", "--th_inference", "1")
        assert (status, "is no run of METHOD+th" in err) == (2, True)


@pytest.mark.parametrize("where", ["options", "all"])
def test_simkd_from_before_its_option(save, where):
    """What a run deploys follows from its weights: an option that its version did not have is not asked for."""
    file = save / "students" / "simkd" / "best.pth"
    raw = dict(read_checkpoint(file))
    raw["options"] = {key: value for key, value in raw["options"].items()
                      if key != "factor" and (where == "options" or key in ("distill", "image_size"))}
    save_checkpoint(save / "other.pth", raw)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected, found = (load_model(path).eval()(x) for path in (file, save / "other.pth"))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# Going on


@pytest.mark.parametrize("method", STOPPED)
def test_a_stopped_run_goes_on(save, method, capfd):
    """The same command finds its directory, and ends where it would have ended."""
    directory, names = stopped(method), {path.name for path in (save / "students").iterdir()}
    first, record = rows(directory), (directory / "options.json").read_text()
    train_student.main(STOPPED[method])
    assert "going on after epoch 1 of 2 and" in capfd.readouterr().out
    assert {path.name for path in (save / "students").iterdir()} == names
    assert rows(directory)[:1] == first
    assert_row(rows(directory)[1], json.loads((save / "resumed" / f"{method}.json").read_text()))
    assert (directory / "options.json").read_text() == record
    train_student.main(STOPPED[method])
    assert "all 2 epochs were done before" in capfd.readouterr().out
    # What it wrote is today's.
    written = read_checkpoint(directory / "last.pth")
    assert RunRecord.of_checkpoint(written).differs(RunRecord.read(directory)) == []
    assert {"record", "deployment"} < written.keys()
    assert load_model(directory)(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(("flags", "message"), [
    (["--kd_T", "2"], "begun with kd_T = 4.0, not 2.0: pass --overwrite"),
    (["-a", "0.5"], "begun with alpha = 0.9, not 0.5"),
    (["--epochs", "3"], "begun with epochs = 2, not 3"),
    (["--batch_size", "64"], "begun with batch_size = 128, not 64"),
    (["--image_size", "8"], "begun with image_size = 16, not 8"),
    (["--seed", "7"], "begun with seed = 1, not 7"),
    (["--path_t", "save/teachers/adapter"], "begun with teacher = a460f1f4da79, not "),
    (["--distill", "crd"], "begun with distill = kd, not crd"),
], ids=str)
def test_other_flags_are_refused(command, flags, message):
    before = {file: file.read_bytes() for file in stopped("kd").iterdir() if file.name != ".lock"}
    status, _, err = command(train_student, *STOPPED["kd"], *flags, "--name", stopped("kd").name)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert before == {file: file.read_bytes() for file in stopped("kd").iterdir() if file.name != ".lock"}


def test_places_and_display_are_not_refused(save, capfd):
    shutil.copytree(save / "teachers" / "teacher", save.parent / "elsewhere")
    train_student.main([*STOPPED["kd"], "--path_t", "elsewhere", "--print_freq", "3", "--num_workers", "0",
                        "--data_dir", "x", "--gpu_id", "cpu"])
    assert "going on after epoch 1 of 2" in capfd.readouterr().out


def test_finished_heads_are_found(save, capfd):
    before = read_checkpoint(save / "teachers" / "teacher" / "heads.pth")
    train_heads.main(["--path_t", TEACHER, "--skip_validation", "--head_pool", "2", "--learning_rate", "0.001", *COMMON,
                      "--epochs", "1"])
    assert "all 1 epochs were done before" in capfd.readouterr().out
    after = read_checkpoint(save / "teachers" / "teacher" / "heads.pth")
    assert (after["hash"], after["loss"], after["acc"]) == (before["hash"], before["loss"], before["acc"])


# Teaching


def test_dih_learns_from_the_stored_heads():
    train_student.main([*DISTIL, "--distill", "dih", "--name", "again", "--epochs", "1"])
    once, again = (Path("save", "students", name) for name in ("dih", "again"))
    assert_row(rows(again)[0], rows(once)[0], rel=1e-3)
    assert RunRecord.read(again).differs(RunRecord.read(once)) == []
    assert RunRecord.read(again).facts["inputs"] == RunRecord.read(once).facts["inputs"]


def test_the_teacher_teaches(capfd):
    train_student.main(["--path_t", TEACHER, "--model_s", "resnet8", *COMMON, "--distill", "kdth", "--th_inference",
                        "--name", "again", "--epochs", "1"])
    out, err = capfd.readouterr()
    assert "teacher resnet8: 50.28% on the test images (its checkpoint says 50.28%)" in out
    assert "warning" not in err
    once, again = (Path("save", "students", name) for name in ("kdth", "again"))
    assert_row(rows(again)[0], rows(once)[0], rel=1e-3)


# Showing


def test_the_table_has_them(command):
    runs = find_runs(["save"])
    assert {(run.name, run.record.kind) for run in runs if "_" not in run.name} == {
        ("simkd", "student"), ("kdth", "student"), ("dih", "student"), ("adapter", "teacher"), ("teacher", "teacher"),
        ("heads", "heads")}
    status, out, err = command(report, "--heads", "heads.png")
    assert (status, err) == (0, "")
    assert Path("heads.png").exists()
    for start in ("| kd: resnet8 -> resnet8 | 1 | 1 | 16.67 | 16.67 | 78,042 |",
                  "| crd+th: resnet8 -> resnet8 | 1 | 1 | 10.00 | 10.00 | 78,692 |",
                  "| simkd: resnet8 -> resnet8 | 1 | 1 | 14.17 | 14.17 | 91,610 |",
                  "| kdth: resnet8 -> resnet8 | 1 | 1 | 11.39 | 11.39 | 78,042 |",
                  "| dih: resnet8 -> resnet8 | 1 | 1 | 10.83 | 10.83 | 78,042 |",
                  "| resnet8 | 2 | 1 | 50.28 | 50.28 | 78,042 |",
                  "| resnet8 with the head of resnet8x4 | 1 | 1 | 10.83 | 10.83 | 78,042 |",
                  "| flat heads of resnet8 | 1 | "):
        assert sum(line.startswith(start) for line in out.splitlines()) == 1, start


@pytest.mark.parametrize("method", STOPPED)
def test_a_trial_of_today_is_of_their_setting(monkeypatch, method):
    """A row of the table: options that their version did not have are at their defaults."""
    monkeypatch.setattr(train_student, "fit", lambda *args: None)
    train_student.main([*STOPPED[method], "--trial", "2", "--name", "today"])
    records = [RunRecord.read(directory) for directory in ("save/students/today", stopped(method))]
    today, earlier = (dict(record.setting()) for record in records)
    assert {key for key in today.keys() | earlier.keys() if today.get(key) != earlier.get(key)} == set()


def test_two_of_them_side_by_side(command):
    status, out, err = command(compare_heads, TEACHER, "save/students/kdth", "--precision", "fp32", "--json", "n.json")
    assert (status, err) == (0, "")
    numbers = json.loads(Path("n.json").read_text())
    assert numbers["weights"]["mean"] == pytest.approx(1)
    assert numbers["predictions"]["acc_a"] == pytest.approx(50.278, abs=1.5 * IMAGE)
    assert numbers["predictions"]["images"] == 360
    assert out.splitlines()[-1] == "picture: save/heads_teacher_kdth.png"
    assert Path("save", "heads_teacher_kdth.png").exists()
