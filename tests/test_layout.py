"""Imports point one way, and a fact is spelled in one room."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = {"errors", "flags", "files", "losses"}
# What the files of each room may import of the project, besides their own room.
ROOMS = {
    "dataset": GROUND,
    "models": GROUND,
    "crd": GROUND,
    "tasks": GROUND | {"models"},
    "distiller_zoo": GROUND | {"models", "crd"},
    "runs": GROUND | {"models", "tasks"},
    "helper": GROUND | {"models", "dataset", "tasks", "runs"},
    "cli": GROUND | {"models", "dataset", "distiller_zoo", "helper", "runs", "tasks"},
}
ENTRIES = ["train_teacher.py", "train_student.py", "train_heads.py", "evaluate.py", "compare_heads.py"]
OURS = set(ROOMS) | GROUND


def files(room):
    return sorted((ROOT / room).rglob("*.py"))


def imported(file):
    """Names of the project's rooms and ground files that a file imports, within functions too."""
    tree = ast.parse(file.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names} & OURS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_below_alone(room):
    assert files(room)
    for file in files(room):
        assert imported(file) <= ROOMS[room] | {room}, file


def test_the_ground_stands_alone():
    for name in GROUND:
        assert imported(ROOT / f"{name}.py") <= GROUND


def strings(file):
    """The string constants of a file that are no docstrings."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and node.body
                  and isinstance(node.body[0], ast.Expr)}
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            and id(node) not in docstrings]


def test_only_tasks_spell_the_name_of_a_metric():
    rooms = [file for room in set(ROOMS) - {"tasks"} for file in files(room)]
    scripts = [ROOT / name for name in ENTRIES] + sorted((ROOT / "scripts").glob("*.py"))
    for file in rooms + scripts:
        if file != ROOT / "models" / "earlier.py":  # which reads what earlier versions wrote
            assert not set(strings(file)) & {"test_acc", "val_acc", "train_acc", "acc_top5"}, file


def test_only_the_zoo_knows_the_name_of_a_method():
    from distiller_zoo import methods
    for room in ("helper", "runs", "tasks", "dataset"):
        for file in files(room):
            assert not set(strings(file)) & set(methods), file


def test_entry_scripts_are_a_page():
    for name in ENTRIES:
        assert len((ROOT / name).read_text().splitlines()) <= 66, name
