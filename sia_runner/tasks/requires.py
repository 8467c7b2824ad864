"""Modules that a task's verifier imports: missing ones are told before anything starts."""

from collections.abc import Sequence
from importlib.util import find_spec

from sia_runner.tasks.protocol import TaskError

# module -> what brings it; other modules are brought by their own name
_EXTRAS = {"chess": "sia-runner[chess]", "triton": "sia-runner[trimul]", "torch": "sia-runner[trimul]"}


def check_modules(task: str, modules: Sequence[str]) -> None:
    """Raises TaskError naming what to install. Nothing is imported: finding a module takes no measurable time."""
    for module in modules:
        if not _there(module):
            what = _EXTRAS.get(module, module)
            raise TaskError(f"task {task}: its verifier needs the module {module}; pip install '{what}'")


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or the name is no module's
        return False
