"""The grouping of comparable runs: same task, test questions and kind of target agent.

Within a group, arms differ in the mode, the trainer, and who proposed on which base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from sia_runner.report.published import declared
from sia_runner.report.runs import Ran

H = "SIA-H"
# Settings that separate arms of the same mode, trainer and seed; other differences are noted beside each pair.
_ARM_SETTINGS = ("meta_agent.name", "meta_agent.provider.model", "search.name", "target_agent.policy.base")


@dataclass(frozen=True, slots=True)
class Side:
    """One arm. `variant`: the values of _ARM_SETTINGS in which the arms of this group differ."""

    mode: str
    trainer: str
    variant: tuple[str, ...]
    runs: tuple[Ran, ...]

    @property
    def label(self) -> str:
        """The name of the arm in tables and legends."""
        how = [] if self.mode == H else [self.trainer]
        return " · ".join([self.mode, *how, *self.variant])

    @property
    def tested(self) -> list[Ran]:
        """The runs with a test score."""
        return [run for run in self.runs if run.final]


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that can be compared.

    `target`: policy, model or script (a harness that calls no model); "" if no run says so. `test_sha256`: of questions
    and data; None if no run was tested. `sides`: SIA-H first.
    """

    task: str
    target: str
    test_sha256: str | None
    sides: tuple[Side, ...]

    @property
    def runs(self) -> list[Ran]:
        """The runs of all arms."""
        return [run for side in self.sides for run in side.runs]

    @property
    def sample_run(self) -> Ran:
        """A run that knows the metric, if there is one."""
        return next((run for run in self.runs if run.metric), self.runs[0])

    @property
    def label(self) -> str:
        """The name of the group in tables."""
        return f"{self.task} (no model)" if self.target == "script" else self.task

    @property
    def published(self) -> Mapping[str, Any]:
        """The published figures that the task declares, in metric units.

        Some of initial, prior, sia_h, sia_wh, and their source and protocol.
        """
        return next((figures for run in self.runs if (figures := declared(run.config))), {})


def grouped(runs: Sequence[Ran]) -> list[Group]:
    """Return the groups in the order of the runs.

    A run without a test score joins the first group of its task and arm, else of its task, so that the group shows it
    as missing.
    """
    runs_by_key: dict[tuple[str, str, str | None], list[Ran]] = {}
    for run in runs:
        if run.arm:
            runs_by_key.setdefault((run.task, run.arm.config["target_agent"], run.arm.test_sha256), []).append(run)
    for run in runs:
        if not run.arm:
            runs_by_key.setdefault(_closest_key(run, runs_by_key), []).append(run)
    return [Group(*key, _sides(members)) for key, members in runs_by_key.items()]


def _closest_key(
    run: Ran, runs_by_key: Mapping[tuple[str, str, str | None], Sequence[Ran]]
) -> tuple[str, str, str | None]:
    of_task = [key for key in runs_by_key if key[0] == run.task]
    of_arm = [key for key in of_task if any(_arm(other) == _arm(run) for other in runs_by_key[key])]
    return next(iter([*of_arm, *of_task]), (run.task, "", None))


def _arm(run: Ran) -> tuple[str, str]:
    return (run.mode, run.trainer)


def _sides(runs: Sequence[Ran]) -> tuple[Side, ...]:
    varying = [key for key in _ARM_SETTINGS if _separates_arms(runs, key)]
    arms: dict[tuple[str, str, tuple[str, ...]], list[Ran]] = {}
    for run in runs:
        apart = tuple(_setting_text(run, key) for key in varying) if run.config else ()
        arms.setdefault((*_arm(run), apart), []).append(run)
    ordered = sorted(arms.items(), key=lambda arm: arm[0][0] != H)
    return tuple(Side(*arm, tuple(of)) for arm, of in ordered)


def _separates_arms(runs: Sequence[Ran], key: str) -> bool:
    """Report whether some mode and trainer have runs of one seed that differ in `key`, so that `key` separates arms."""
    values_by_arm: dict[tuple[str, str, int | None], set[str]] = {}
    for run in runs:
        if run.config:
            values_by_arm.setdefault((*_arm(run), run.seed), set()).add(_setting_text(run, key))
    return any(len(values) > 1 for values in values_by_arm.values())


def _setting_text(run: Ran, key: str) -> str:
    setting = value(run.config, key)
    return "" if setting is None else str(setting)


def value(tree: Any, key: str) -> Any:
    """Return ``value({"a": {"b": 1}}, "a.b")`` -> 1; None if there is no such key."""
    return reduce(lambda at, part: at.get(part) if isinstance(at, dict) else None, key.split("."), tree)
