"""Tables of the documents come from the registries; what they name exists; their examples work as they stand."""
import importlib
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import dataset
import distiller_zoo
import models
import train_student
import train_teacher
from cli.options import compare_options, evaluate_options, heads_options, student_options, teacher_options
from errors import UsageError
from models.features import Features
from runs.report import find_runs
from scripts.update_docs import GENERATED, updated

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
PARSERS = {"train_teacher.py": teacher_options, "train_student.py": student_options, "train_heads.py": heads_options,
           "evaluate.py": evaluate_options, "compare_heads.py": compare_options}
EXAMPLES = r"<!-- example: ([\w/]+)\.py -->\n```python\n(.*?)```"


def read(document):
    return (ROOT / document).read_text()


@pytest.mark.parametrize("document", GENERATED)
def test_tables_and_lists_are_the_registries(document):
    text = read(document)
    assert text == updated(document, text), "run python scripts/update_docs.py"


def test_a_missing_marker_is_an_error():
    with pytest.raises(ValueError, match=r"docs/networks.md has 0 places for models"):
        updated("docs/networks.md", "# Networks\n")


def test_every_registered_name_is_documented():
    for document, names in (("docs/methods.md", distiller_zoo.methods), ("docs/networks.md", models.model_dict),
                            ("docs/data.md", set(dataset.dataset_dict) - {"tiny"})):
        text = read(document)
        assert [name for name in names if f"`{name}`" not in text] == [], document
    assert all(f"+{name}`" in read("docs/methods.md") for name in distiller_zoo.modifiers.modifiers)


def test_readme_is_short_and_links_every_document():
    text = read("README.md")
    assert len(text.splitlines()) <= 160
    assert [document for document in DOCUMENTS[1:] if f"]({document})" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_scripts_and_files_exist(document):
    text = read(document)
    links = re.findall(r"\]\(([^):]+)\)", text)
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []
    files = re.findall(r"(?:python|bash) ([\w./-]+\.(?:py|sh))", text)
    files += re.findall(r"`((?:scripts|benchmarks)/[\w./-]+\.\w+)`", text)
    if document == "CONTRIBUTING.md":  # which names folders and files, in its text and in the path of a batch
        files += re.findall(r"`([\w/]+(?:/|\.py|\.md))`", text)
        files += re.findall(r"^ +(\w+/[\w/.]*)  ", text, flags=re.MULTILINE)
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert links or files


def commands():
    """(script, arguments) of the commands of the entry scripts in the documents."""
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", read(document), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if len(words) > 1 and words[1] in PARSERS:
                    yield words[1], words[2:]


def test_commands_of_the_entry_scripts_parse():
    found = list(commands())
    assert {script for script, _ in found} == set(PARSERS)
    for script, arguments in found:
        PARSERS[script](arguments)


def test_readmes_library_block_runs():
    block, = re.findall(r"```python\n(.*?)```", read("README.md"), flags=re.DOTALL)
    stored = ROOT / "tests" / "files_of_1_0" / "students" / "simkd"
    assert "save/students/NAME" in block
    generator = torch.Generator().manual_seed(0)
    z_s, z_t = torch.randn(2, 4, 10, generator=generator)
    given = {"student": models.create_model("resnet8", 10), "teacher": models.create_model("resnet8", 10),
             "x": torch.randn(4, 3, 16, 16, generator=generator), "y": torch.arange(4), "index": torch.arange(4),
             "z_s": z_s, "z_t": z_t, "Features": Features, "Batch": dataset.Batch}
    exec(block.replace("save/students/NAME", str(stored)), given)
    assert given["network"](torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    assert given["loss"].shape == ()
    assert given["loss"].isfinite()
    given["loss"].backward()
    assert given["student"].conv1.weight.grad is not None


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The code blocks of CONTRIBUTING.md as modules of their packages, registered as its text says."""
    text = read("CONTRIBUTING.md")
    for path, code in re.findall(EXAMPLES, text, flags=re.DOTALL):
        package, name = path.split("/")
        (tmp_path / package).mkdir()
        (tmp_path / package / f"{name}.py").write_text(code)
        monkeypatch.setattr(sys.modules[package], "__path__", [*sys.modules[package].__path__, str(tmp_path / package)])
        importlib.import_module(f"{package}.{name}")
    modules = [f"{path}.py" for path in ("distiller_zoo/cosine", "models/plain", "dataset/stripes")]
    assert sorted(modules) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.py"))
    for line in ('`"cosine": CosineMethod`', '`"plain": partial(Plain, 32)`', '`"stripes": stripes.build`'):
        assert line in text
    monkeypatch.setitem(distiller_zoo.methods, "cosine", sys.modules["distiller_zoo.cosine"].CosineMethod)
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
    rows = {run.record.facts["arch"]: run.rows[-1] for run in find_runs([save])}
    assert rows["plain"]["test_acc"] > 80
    assert 0 < rows["resnet8"]["loss_method"] < 5 * 2
    with pytest.raises(UsageError, match="embeddings of 64 and 32"):
        train_student.main([*common, "--model_s", "resnet8", "--distill", "cosine", "--cosine_linear", "0",
                            "--path_t", teacher])
