"""A check of the modules that a task's verifier imports: missing ones are reported before anything starts."""

from collections.abc import Sequence
from importlib.util import find_spec

from sia_runner.tasks.protocol import TaskError

# module -> what brings it; other modules are brought by their own name
_EXTRAS = {"chess": "sia-runner[chess]", "triton": "sia-runner[trimul]", "torch": "sia-runner[trimul]"}


def check_modules(task: str, modules: Sequence[str]) -> None:
    """Raise TaskError naming what to install. Modules are looked up, not imported, which takes no measurable time."""
    for module in modules:
        if not _is_installed(module):
            requirement = _EXTRAS.get(module, module)
            raise TaskError(f"task {task}: its verifier needs the module {module}; pip install '{requirement}'")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or the name is no module's
        return False
