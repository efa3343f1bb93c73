"""The arrows of the house: who may import whom, and what stays unloaded until it is needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORCHESTRATOR = sorted((ROOT / "orchestrator").rglob("*.py"))
TASKS = sorted((ROOT / "tasks").rglob("*.py"))

PORT_FREE = ("orchestrator.stores", "orchestrator.registries", "orchestrator.backends")


def imports_of(path, *, top_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(names):
    return {name.split(".")[0] for name in names}


def short(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", TASKS, ids=short)
def test_tasks_know_neither_the_orchestrator_nor_ray(path):
    assert not roots(imports_of(path)) & {"orchestrator", "ray", "boto3"}


@pytest.mark.parametrize("path", ORCHESTRATOR, ids=short)
def test_only_the_ray_backend_knows_ray(path):
    assert ("ray" in roots(imports_of(path))) == (path.name == "ray_backend.py")


@pytest.mark.parametrize("path", ORCHESTRATOR, ids=short)
def test_the_orchestrator_never_loads_torch_when_it_is_imported(path):
    assert not roots(imports_of(path, top_only=True)) & {"torch", "transformers"}


@pytest.mark.parametrize("path", [*ORCHESTRATOR, *TASKS], ids=short)
def test_nobody_unpickles(path):
    names = imports_of(path)
    assert not roots(names) & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    assert "torch.load(" not in path.read_text()


@pytest.mark.parametrize("path", [*ORCHESTRATOR, *TASKS], ids=short)
def test_the_first_line_says_whether_a_module_has_effects(path):
    if not path.read_text().strip():
        return
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text
    assert text.startswith(("Pure", "Effects."))


@pytest.mark.parametrize("path", [*ORCHESTRATOR, *TASKS], ids=short)
def test_pure_modules_touch_no_disk_clock_network_or_process(path):
    text = ast.get_docstring(ast.parse(path.read_text() or '"""Effects."""')) or ""
    if not text.startswith("Pure."):
        return
    effects = {
        "os",
        "time",
        "socket",
        "subprocess",
        "shutil",
        "tempfile",
        "threading",
        "boto3",
        "ray",
        "requests",
    }
    assert not roots(imports_of(path)) & effects


@pytest.mark.parametrize("path", [*ORCHESTRATOR, *TASKS], ids=short)
def test_no_name_is_called_after_nothing_in_particular(path):
    names = {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    vague = {"manager", "handler", "helper", "helpers", "util", "utils", "info"}
    assert not [name for name in {*names, path.stem} if vague & set(_words(name))]


def _words(name):
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)]


def test_the_controller_knows_ports_and_no_implementation():
    for name in ("controller", "planning", "schedule/scheduling", "schedule/placement"):
        found = imports_of(ROOT / "orchestrator" / f"{name}.py")
        assert not [module for module in found if module.startswith(PORT_FREE)]


def room_of(module):
    """The folder of a module, or the module itself where it lies in none."""
    return ".".join(module.split(".")[:2])


def rooms():
    """Room -> the rooms that it imports from, when it is imported or later; imports for types alone do not count."""
    modules = {short(path).removesuffix(".py").replace("/", "."): path for path in [*ORCHESTRATOR, *TASKS]}
    arrows = {room_of(module): set() for module in modules}
    for module, path in modules.items():
        tree = ast.parse(path.read_text())
        for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
            if ast.unparse(block.test) == "TYPE_CHECKING":
                block.body = []
        named = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        }
        arrows[room_of(module)] |= {room_of(name) for name in named & modules.keys()} - {room_of(module)}
    return arrows


def test_no_rooms_import_each_other_in_a_circle():
    left = rooms()
    assert len(left) > 40
    while free := [room for room, below in left.items() if not below & left.keys()]:
        for room in free:
            del left[room]
    assert left == {}, "these rooms lean on each other"


@pytest.mark.parametrize(
    "path", [path for path in [*ORCHESTRATOR, *TASKS] if path.name == "__init__.py"], ids=short
)
def test_every_room_says_what_it_is_and_stands_in_the_architecture(path):
    room = path.parent.relative_to(ROOT).as_posix()
    if "/" in room:
        assert ast.get_docstring(ast.parse(path.read_text()))
        assert f"`{path.parent.name}/`" in (ROOT / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("folder", ["orchestrator", "tasks"])
def test_every_module_that_lies_in_no_room_stands_in_the_architecture(folder):
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in row.split()}
    assert {path.stem for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"} <= named


def loaded_after(statement):
    code = f"import sys; {statement}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_command_line_loads_neither_torch_nor_ray_nor_arrow():
    assert not loaded_after("import orchestrator.cli") & {
        "torch",
        "ray",
        "pyarrow",
        "transformers",
        "boto3",
        "duckdb",
    }


def test_planning_loads_neither_torch_nor_ray_nor_arrow():
    assert not loaded_after("import orchestrator.survey, orchestrator.planview") & {
        "torch",
        "ray",
        "pyarrow",
        "transformers",
    }


def test_the_contract_of_the_tasks_loads_no_torch():
    assert not loaded_after("import tasks.contract") & {"torch", "numpy", "pyarrow"}


def test_the_worker_loads_no_torch_before_it_has_a_shard():
    assert not loaded_after("import orchestrator.worker") & {"torch", "ray", "transformers"}


def test_every_kind_of_finding_has_a_series_of_its_own():
    from orchestrator.watching.metrics import FINDING_KINDS

    named = set()
    for path in [*ORCHESTRATOR, *TASKS]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                named |= {
                    kw.value.value
                    for kw in node.keywords
                    if kw.arg == "kind" and isinstance(kw.value, ast.Constant)
                }
    assert len(named) > 10
    assert named <= set(FINDING_KINDS)


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "unit").glob("*.py")), ids=short)
def test_unit_tests_need_neither_torch_nor_ray(path):
    assert not roots(imports_of(path)) & {"torch", "transformers", "ray", "boto3", "deltalake"}
