"""Implements sign-off: a lever that `approve` names is used only after a person agreed; the journal records both."""

import getpass
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sia_runner.approve import plans
from sia_runner.config import Experiment
from sia_runner.ground.history import SIGN_OFF, Finished, answer_to, waiting
from sia_runner.ground.journal import Journal, Record
from sia_runner.ground.plaintext import one_line
from sia_runner.records import Lever
from sia_runner.rundir import RunDir, RunError, sha256_of

_COVERED = {
    "none": (),
    "weights": (Lever.WEIGHTS, Lever.BOTH),
    "all": (Lever.WEIGHTS, Lever.BOTH, Lever.HARNESS),
}


class Waiting(Exception):
    """A run that stops here until a person answers; the message is one line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a person. `why` is None where the plan is approved."""

    why: str | None = None


def needed(config: Experiment, lever: str) -> bool:
    """Return whether this lever needs a sign-off."""
    return lever in _COVERED[config.approve]


def plan(config: Experiment, run: RunDir, n: int, before: Sequence[Finished]) -> dict[str, Any]:
    """Write the plan and return its hashes, which the journal records."""
    return plans.write(config, run, n, before)


def rejection(journal: Record, n: int) -> str | None:
    """Return the reason why generation `n` ends here; None where it may continue.

    Raises Waiting while there is no answer.
    """
    answer = answer_to(journal, n)
    if answer is None:
        raise Waiting(f"generation {n} waits for approval of gen_{n}/plan.md")
    return f"{SIGN_OFF}{answer['why']}" if answer["event"] == "rejected" else None


def check(run: RunDir, journal: Record) -> int:
    """Return the generation that waits for an answer.

    Raises RunError when nothing waits, or when its plan or proposal was edited.
    """
    n = waiting(journal)
    if n is None:
        raise RunError(f"{run.path}: no plan waits for approval")
    if change := edited(run, journal, n):
        raise RunError(f"{run.path}: {change}; nothing was approved")
    return n


def edited(run: RunDir, journal: Record, n: int) -> str:
    """Return one line on the plan or proposal that differs from the journal; empty when both are unchanged."""
    generation = run.generation(n)
    planned, proposed = journal.result(f"gen_{n}/plan") or {}, journal.result(f"gen_{n}/propose") or {}
    expected = {
        generation.plan: planned.get("sha256"),
        generation.plan.with_suffix(".json"): planned.get("json_sha256"),
        generation.proposal: proposed.get("sha256"),
    }
    for path, sha256 in expected.items():
        if not path.is_file() or sha256_of(path) != sha256:
            return f"gen_{n}/{path.name} was changed since it was written"
    return ""


def sign(journal: Journal, n: int, answer: Answer) -> None:
    """Append the answer to the journal, with its author and the plan's hash."""
    planned = journal.result(f"gen_{n}/plan") or {}
    signed: dict[str, Any] = {"n": n, "by": _user(), "plan_sha256": planned.get("sha256")}
    if answer.why is None:
        journal.append("approved", **signed)
    else:
        journal.append("rejected", **signed, why=one_line(answer.why, 500))


def fault(run: RunDir, journal: Record, generation: Finished) -> str:
    """Return what is wrong with the sign-off of a finished generation, for `verify`; empty when nothing is."""
    steps = generation.steps
    if steps["propose"]["fault"]:
        return ""
    answer = answer_to(journal, generation.n)
    if "plan" not in steps or answer is None:
        return "went on without a plan that was answered"
    if answer["plan_sha256"] != steps["plan"]["sha256"]:
        return "the answer is to another plan"
    if answer["event"] == "rejected" and "build" in steps:
        return "rejected, and built all the same"
    return edited(run, journal, generation.n)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user on this machine: containers
        return f"uid {os.getuid()}"
