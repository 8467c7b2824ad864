"""Which runs can be set side by side: the same task, the same test questions, the same kind of target agent. Within
such a group an arm is what differs: the mode, its trainer, and who proposed on which base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from sia_runner.report.published import declared
from sia_runner.report.runs import Ran

H = "SIA-H"
# What tells arms of the same mode, trainer and seed apart; other differences are said beside each pair.
_APART = ("meta_agent.name", "meta_agent.provider.model", "search.name", "target_agent.policy.base")


@dataclass(frozen=True, slots=True)
class Side:
    """One arm. `apart`: the values of _APART in which the arms of this group differ."""

    mode: str
    trainer: str
    apart: tuple[str, ...]
    runs: tuple[Ran, ...]

    @property
    def label(self) -> str:
        how = [] if self.mode == H else [self.trainer]
        return " · ".join([self.mode, *how, *self.apart])

    @property
    def tested(self) -> list[Ran]:
        return [run for run in self.runs if run.final]


@dataclass(frozen=True, slots=True)
class Group:
    """`target`: policy, model or script (a harness that calls no model); "" where no run could say. `test_sha256`: of
    questions and data; None where no run was tested. `sides`: SIA-H first."""

    task: str
    target: str
    test_sha256: str | None
    sides: tuple[Side, ...]

    @property
    def runs(self) -> list[Ran]:
        return [run for side in self.sides for run in side.runs]

    @property
    def some(self) -> Ran:
        """One that knows the metric, where one does."""
        return next((run for run in self.runs if run.metric), self.runs[0])

    @property
    def label(self) -> str:
        return f"{self.task} (no model)" if self.target == "script" else self.task

    @property
    def published(self) -> Mapping[str, Any]:
        """Figures that the task declares, in metric units: some of initial, prior, sia_h, sia_wh; and their source and
        protocol."""
        return next((one for run in self.runs if (one := declared(run.config))), {})


def grouped(runs: Sequence[Ran]) -> list[Group]:
    """In the order of the runs. A run without a test score goes with the first group of its task and arm, else of its
    task, so that it is missed where it is missing."""
    found: dict[tuple[str, str, str | None], list[Ran]] = {}
    for run in runs:
        if run.arm:
            found.setdefault((run.task, run.arm.config["target_agent"], run.arm.test_sha256), []).append(run)
    for run in runs:
        if not run.arm:
            found.setdefault(_home(run, found), []).append(run)
    return [Group(*key, _sides(of)) for key, of in found.items()]


def _home(run: Ran, found: Mapping[tuple[str, str, str | None], Sequence[Ran]]) -> tuple[str, str, str | None]:
    of_task = [key for key in found if key[0] == run.task]
    of_arm = [key for key in of_task if any(_arm(other) == _arm(run) for other in found[key])]
    return next(iter([*of_arm, *of_task]), (run.task, "", None))


def _arm(run: Ran) -> tuple[str, str]:
    return (run.mode, run.trainer)


def _sides(runs: Sequence[Ran]) -> tuple[Side, ...]:
    varying = [key for key in _APART if _twice(runs, key)]
    arms: dict[tuple[str, str, tuple[str, ...]], list[Ran]] = {}
    for run in runs:
        apart = tuple(_shown(run, key) for key in varying) if run.config else ()
        arms.setdefault((*_arm(run), apart), []).append(run)
    ordered = sorted(arms.items(), key=lambda arm: arm[0][0] != H)
    return tuple(Side(*arm, tuple(of)) for arm, of in ordered)


def _twice(runs: Sequence[Ran], key: str) -> bool:
    """Has a mode and trainer runs of the same seed that differ in `key`? Where none has, it tells no arms apart."""
    found: dict[tuple[str, str, int | None], set[str]] = {}
    for run in runs:
        if run.config:
            found.setdefault((*_arm(run), run.seed), set()).add(_shown(run, key))
    return any(len(values) > 1 for values in found.values())


def _shown(run: Ran, key: str) -> str:
    found = value(run.config, key)
    return "" if found is None else str(found)


def value(tree: Any, key: str) -> Any:
    """``value({"a": {"b": 1}}, "a.b")`` -> 1; None where there is no such key."""
    return reduce(lambda at, part: at.get(part) if isinstance(at, dict) else None, key.split("."), tree)
