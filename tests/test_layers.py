"""The house rule: the ground imports no room, and rooms do not import one another."""

import ast
from pathlib import Path

import pytest

import sia_runner

PACKAGE = Path(sia_runner.__file__).parent
ROOMS = ["tasks", "agents", "models", "sandbox", "training", "compute", "tracking"]
GROUND = [
    "records",
    "schema",
    "task_config",
    "provider_config",
    "training_config",
    "sandbox_config",
    "combinations",
    "compute_config",
    "tracker_config",
    "config",
    "faults",
    "alive",
    "parallel",
    "plaintext",
    "sampling",
    "search",
    "dialogue",
    "rundir",
    "journal",
    "lease",
    "scoring",
    "standby",
    "resources",
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def ours(path):
    """First part below sia_runner of everything of ours that `path` imports."""
    for name in imported(path):
        assert not name.startswith("."), f"{path}: relative import"
        if name.startswith("sia_runner."):
            yield name.split(".")[1]


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_a_room_imports_only_itself_and_the_ground(room):
    for path in (PACKAGE / room).rglob("*.py"):
        assert set(ours(path)) <= {room, *GROUND}, path


def test_who_reads_run_directories_imports_no_room_but_the_ledgers_books():
    allowed = {
        "reading": {"reading", "models"},
        "web": {"web", "reading", "refusals"},
        "report": {"report", "reading", "comparing", "sweep_plan", "sweep_table", "refusals"},
    }
    for package, more in allowed.items():
        for path in (PACKAGE / package).rglob("*.py"):
            assert set(ours(path)) <= {*more, *GROUND}, path


def test_the_ground_imports_only_the_ground():
    for module in GROUND:
        assert set(ours(PACKAGE / f"{module}.py")) <= set(GROUND), module


def test_records_and_resources_import_nothing_of_ours():
    for module in ("records", "resources"):
        assert list(ours(PACKAGE / f"{module}.py")) == []
