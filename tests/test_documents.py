"""README's tables come from the registries; CONTRIBUTING's examples work as they stand."""
import importlib
import re
import sys
from functools import partial
from pathlib import Path

import pytest

import dataset
import distiller_zoo
import models
import train_student
import train_teacher
from errors import UsageError
from runs.report import find_runs
from scripts.update_readme import updated

ROOT = Path(__file__).resolve().parent.parent


def test_readme_tables_are_the_registries():
    text = (ROOT / "README.md").read_text()
    assert text == updated(text), "run python scripts/update_readme.py"
    for name in [*distiller_zoo.methods, *models.model_dict]:
        assert f"`{name}`" in text


def test_readme_names_every_data_set():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in dataset.dataset_dict if name != "tiny")


def test_links_and_scripts_of_the_documents_exist():
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text()
        files = re.findall(r"(?:python|bash) ([\w./-]+\.(?:py|sh))", text) + re.findall(r"\]\(([^):]+)\)", text)
        assert files
        assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The code blocks of CONTRIBUTING.md as modules of their packages, registered as its text says."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path, code in re.findall(r"<!-- example: ([\w/]+)\.py -->\n```python\n(.*?)```", text, flags=re.DOTALL):
        package, name = path.split("/")
        (tmp_path / package).mkdir()
        (tmp_path / package / f"{name}.py").write_text(code)
        monkeypatch.setattr(sys.modules[package], "__path__", [*sys.modules[package].__path__, str(tmp_path / package)])
        importlib.import_module(f"{package}.{name}")
    modules = [f"{path}.py" for path in ("distiller_zoo/cosine", "models/plain", "dataset/stripes")]
    assert sorted(modules) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.py"))
    monkeypatch.setitem(distiller_zoo.methods, "cosine", sys.modules["distiller_zoo.cosine"].Cosine)
    monkeypatch.setitem(models.model_dict, "plain", partial(sys.modules["models.plain"].Plain, 32))
    monkeypatch.setitem(dataset.dataset_dict, "stripes", sys.modules["dataset.stripes"].build)
    yield
    for name in ("distiller_zoo.cosine", "models.plain", "dataset.stripes"):
        del sys.modules[name]


def test_contributing_examples_train(examples, tmp_path):
    save = str(tmp_path / "save")
    common = ["--dataset", "stripes", "--epochs", "3", "--precision", "fp32", "--save_dir", save]
    train_teacher.main([*common, "--model", "plain", "--name", "plain_vanilla"])
    teacher = f"{save}/teachers/plain_vanilla"
    train_student.main([*common, "--model_s", "resnet8", "--distill", "cosine", "--path_t", teacher])
    rows = {run["options"]["arch"]: run["rows"][-1] for run in find_runs([save])}
    assert rows["plain"]["test_acc"] > 80
    assert 0 < rows["resnet8"]["loss_method"] < 5 * 2
    with pytest.raises(UsageError, match="embeddings of 64 and 32"):
        train_student.main([*common, "--model_s", "resnet8", "--distill", "cosine", "--cosine_linear", "0",
                            "--path_t", teacher])
