"""The figures: what is measured, and from which runs."""

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from _task import MANY_LINES, ONE_LINE, harness, stamps, write_task
from _watch import Roles, Watched, watch

Figures = dict[str, list[float]]  # name with unit -> one value per observation

GENERATIONS = 3


class Runner(Protocol):
    name: str

    def environment(self) -> Mapping[str, str]: ...

    def help(self) -> list[str]: ...

    def tasks(self, folder: Path) -> Mapping[str, list[str]]:
        """Map the suffix of a figure's name to its arguments. The first is `folder`, without a suffix."""
        ...

    def run(self, task: list[str], harnesses: Path, max_gen: int) -> list[str]: ...

    def logs(self, folder: Path) -> Mapping[Path, int]:
        """Return the output of each target agent of a run, with the generation it belongs to."""
        ...

    def roles(self, pid: int) -> Sequence[tuple[str, int]]:
        """The runner's own processes, first of all the command's `pid`, each with what it is."""
        ...


def measure(runners: Sequence[Runner], folder: Path, repeats: int, output_mib: int) -> dict[str, Figures]:
    """Return all figures by runner.

    The runners take turns, so that a busy minute hits all; a first turn only warms up.
    """
    write_task(folder / "task")
    results: dict[str, defaultdict[str, list[float]]] = {runner.name: defaultdict(list) for runner in runners}
    for turn in range(repeats + 1):
        for runner in runners:
            print(f"{runner.name}: {f'run {turn} of {repeats}' if turn else 'warm-up'}", flush=True)
            times = _times(runner, folder)
            if turn:
                for name, values in (times | _memory(runner, folder, output_mib)).items():
                    results[runner.name][name] += values
    return {name: dict(figures) for name, figures in results.items()}


def _times(runner: Runner, folder: Path) -> Figures:
    """One --help, and per task a run of several generations whose target agents print nothing but their stamps."""
    helped = watch(runner.help(), folder, runner.environment(), folder / "help.log")
    figures: Figures = {"--help (s)": [helped.seconds]}
    for which, task in runner.tasks(folder / "task").items():
        watched, agents = _run(runner, folder, task, [harness(n) for n in range(GENERATIONS)])
        gaps = [(n, began - end) for (_, _, end), (n, began, _) in pairwise(agents)]
        sums = [sum(gap for n, gap in gaps if n == generation) for generation in range(2, GENERATIONS + 1)]
        figures |= {
            f"launch to first target agent{which} (s)": [agents[0][1] - watched.began],
            f"between consecutive target agents{which} (s)": [gap for _, gap in gaps],
            f"own work per generation{which} (s)": sums,
        }
    return figures


def _memory(runner: Runner, folder: Path, mib: int) -> Figures:
    """Peak resident memory of the runner's own processes while one target agent prints `mib` MiB."""
    figures: Figures = {}
    task = runner.tasks(folder / "task")[""]
    for what, line in (("lines", MANY_LINES), ("one line", ONE_LINE)):
        watched, _ = _run(runner, folder, task, [harness(0, mib, line)], runner.roles)
        for role, peak in watched.peaks.items():
            figures[f"{role} at {mib} MiB of output, {what} (MB)"] = [peak]
    return figures


def _run(
    runner: Runner,
    folder: Path,
    task: list[str],
    harnesses: list[str],
    roles: Roles | None = None,
) -> tuple[Watched, list[tuple[int, float, float]]]:
    """One run in a fresh folder, removed afterwards. Each target agent as (generation, began, ended), in order."""
    run, proposals = folder / "run", folder / "proposals"
    run.mkdir()
    for n, source in enumerate(harnesses, start=1):
        (proposals / f"gen_{n}").mkdir(parents=True)
        (proposals / f"gen_{n}" / "target_agent.py").write_text(source, encoding="utf-8")
    try:
        command = runner.run(task, proposals, len(harnesses))
        watched = watch(command, run, runner.environment(), folder / "run.log", roles)
        agents = [(n, *stamps(log)) for log, n in runner.logs(run).items()]
    finally:
        shutil.rmtree(run)
        shutil.rmtree(proposals)
    return watched, sorted(agents, key=lambda agent: agent[1])
