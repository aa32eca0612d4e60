"""Data flows one way: a module imports from the rooms above its own, never from those below."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE, TESTS = Path(__file__).parents[1] / "rgtg_hf", Path(__file__).parent
# From above to below. Training and scoring stand side by side.
ALLOWED = {
    "rewards": set(),
    "training": {"rewards"},
    "scoring": {"rewards"},
    "decoding": {"rewards", "scoring"},
    "evaluation": {"rewards", "training", "scoring", "decoding", "serving"},
    "inspection": {"rewards", "scoring", "decoding"},
    "serving": {"rewards", "scoring", "decoding"},
    "cli": {"rewards", "training", "scoring", "decoding", "serving", "evaluation", "inspection"},
}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            parts = name.split(".")
            if parts[0] == "rgtg_hf" and len(parts) > 2:
                yield parts[1]


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_from_rooms_above(room):
    for path in (PACKAGE / room).rglob("*.py"):
        assert set(imported_rooms(path)) <= ALLOWED[room] | {room}, path.name


def modules():
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def imports_among_modules():
    """For each module those that it imports, at its top or within a function. Imports for types alone do not count."""
    trees = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
        for path in modules()
    }
    imports = {}
    for name, tree in trees.items():
        for_types = [
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
            for inner in node.body
        ]
        found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in for_types]
        imports[name] = {node.module for node in found} & trees.keys()
    return imports


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter(imports_among_modules()).prepare()  # raises CycleError with the names


def test_no_two_modules_have_one_name():
    names = [path.name for path in modules()]
    assert sorted(names) == sorted(set(names))


def test_no_two_modules_have_a_public_name_in_common():
    owners = {}
    for path in modules():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                owners.setdefault(node.name, []).append(path.name)
    # Every command has a `run`.
    assert {name: where for name, where in owners.items() if len(where) > 1 and name != "run"} == {}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_test_of_a_module_is_found_by_its_path(path):
    # vLLM's classes are tested together, in its own environment.
    name = "vllm_offline" if path.parent.name == "serving" and path.stem.startswith("vllm") else path.stem
    assert (TESTS / path.relative_to(PACKAGE).parent / f"test_{name}.py").is_file()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_is_imported_only_where_it_is_served(engine):
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "serving":
            assert f"import {engine}" not in path.read_text("utf-8").replace("from ", "import "), path.name


def test_every_room_has_its_place_in_the_order():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)


def test_docstrings_say_what_things_are_and_do():
    """A first line that begins with "What" or "Which" is seldom a sentence that a stranger understands."""
    first_lines = [
        (ast.get_docstring(node) or "").partition("\n")[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    ]
    assert [line for line in first_lines if line.startswith(("What ", "Which "))] == []


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, rgtg_hf; assert not {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_the_processor_does_not_need_trl():
    code = "import sys; from rgtg_hf import RewardGuidedLogitsProcessor; assert 'trl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
