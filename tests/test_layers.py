"""The house rule: the ground imports no room, and rooms do not import one another."""

import ast
from pathlib import Path

import pytest

import sia_runner

PACKAGE = Path(sia_runner.__file__).parent
ROOMS = ["tasks", "agents", "models", "sandbox", "training", "compute", "tracking"]
GROUND = ["records", "config", "rundir", "ground", "schema"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def ours(path):
    """Everything of ours that `path` imports, as names below sia_runner."""
    for name in imported(path):
        assert not name.startswith("."), f"{path}: relative import"
        if name.startswith("sia_runner."):
            yield name.removeprefix("sia_runner.")


def strangers(path, *allowed):
    """What `path` imports of ours that is neither one of `allowed` nor inside one."""
    return [name for name in ours(path) if not any(name == a or name.startswith(f"{a}.") for a in allowed)]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_itself_and_the_ground(room):
    assert (PACKAGE / room).is_dir()
    for path in (PACKAGE / room).rglob("*.py"):
        if path.name != "__main__.py":
            assert not strangers(path, room, *GROUND), path


def test_a_command_that_is_called_by_the_name_of_a_room_only_hands_over():
    """``python -m sia_runner.tasks`` stands above the rooms like any other command."""
    found = [path for room in ROOMS for path in (PACKAGE / room).glob("__main__.py")]
    assert [(path.parent.name, *ours(path)) for path in found] == [("tasks", "own_task.command")]


def test_who_reads_run_directories_imports_no_room_but_the_ledgers_books():
    allowed = {
        "reading": ["reading", "models"],
        "web": ["web", "reading", "compose.refusals"],
        "report": ["report", "reading", "compare.scores", "sweep.plan", "sweep.table", "compose.refusals"],
    }
    for package, more in allowed.items():
        for path in (PACKAGE / package).rglob("*.py"):
            assert not strangers(path, *more, *GROUND), path


def test_the_ground_imports_only_the_ground():
    for part in GROUND:
        at = PACKAGE / part
        for path in at.rglob("*.py") if at.is_dir() else [at.with_suffix(".py")]:
            assert not strangers(path, *GROUND), path


def test_records_and_resources_import_nothing_of_ours():
    for module in ("records", "ground/resources"):
        assert list(ours(PACKAGE / f"{module}.py")) == []
