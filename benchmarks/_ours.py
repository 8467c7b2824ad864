"""Our runner in this environment: the sia_runner that this process imports, or a checkout of another version."""

import sys
from pathlib import Path

from _watch import children, command_line, environment

import sia_runner


class Ours:
    """Commands of sia_runner, and where its runs keep what target agents print."""

    def __init__(self, checkout: Path | None = None) -> None:
        self._checkout = checkout.resolve() if checkout else Path(sia_runner.__file__).parents[1]
        self.name = f"checkout {checkout.name}" if checkout else f"sia-runner {sia_runner.__version__}"

    def environment(self) -> dict[str, str]:
        return {**environment(), "PYTHONPATH": str(self._checkout)}

    def help(self) -> list[str]:
        return [sys.executable, "-m", "sia_runner", "--help"]

    def tasks(self, folder: Path) -> dict[str, list[str]]:
        """Name the tasks. With ours, each generation has two target agents: the gate's short run, then the full one."""
        return {"": ["task=custom", f"task.dir={folder}"], ", task=smoke with its gate": ["task=smoke"]}

    def run(self, task: list[str], harnesses: Path, max_gen: int) -> list[str]:
        """Return the command, which is to be started in an empty folder."""
        replay = ["meta_agent=replay", f"meta_agent.dir={harnesses}"]
        return [sys.executable, "-m", "sia_runner", *task, *replay, f"max_gen={max_gen}", "hydra.run.dir=run"]

    def logs(self, folder: Path) -> dict[Path, int]:
        """The gate's short runs included."""
        paths = folder.glob("run/gen_*/**/stdout.log")
        return {log: int(log.relative_to(folder).parts[1].removeprefix("gen_")) for log in paths}

    def roles(self, pid: int) -> list[tuple[str, int]]:
        """Besides the main one: supervisors, at work and standing by, and the verifier of a task of our own."""
        processes = [("main process", pid)]
        for child in children(pid):
            command = command_line(child)
            if b"sia_runner.sandbox.supervisor" in command:
                processes.append(("supervisor", child))
            elif b"sia_runner.tasks.worker" in command:
                processes.append(("verifier", child))
        return processes
