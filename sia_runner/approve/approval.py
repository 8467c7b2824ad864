"""Sign-off: a lever that `approve` names is pulled only after a person said so. The journal holds plan and answer."""

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
    """The run stops here until a person has answered; the message is one line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A person's. `why` is None where the plan is approved."""

    why: str | None = None


def needed(config: Experiment, lever: str) -> bool:
    return lever in _COVERED[config.approve]


def plan(config: Experiment, run: RunDir, n: int, before: Sequence[Finished]) -> dict[str, Any]:
    """A step of the journal: the plan on disk, and its hashes."""
    return plans.write(config, run, n, before)


def rejection(journal: Record, n: int) -> str | None:
    """Why generation `n` ends here; None where it may go on. Raises Waiting while there is no answer."""
    found = answer_to(journal, n)
    if found is None:
        raise Waiting(f"generation {n} waits for approval of gen_{n}/plan.md")
    return f"{SIGN_OFF}{found['why']}" if found["event"] == "rejected" else None


def check(run: RunDir, journal: Record) -> int:
    """The generation that can be answered now. Raises RunError: nothing waits, or what waits was edited."""
    n = waiting(journal)
    if n is None:
        raise RunError(f"{run.path}: no plan waits for approval")
    if fault := edited(run, journal, n):
        raise RunError(f"{run.path}: {fault}; nothing was approved")
    return n


def edited(run: RunDir, journal: Record, n: int) -> str:
    """Which of plan and proposal is not what was journaled; empty when both are."""
    here = run.generation(n)
    planned, proposed = journal.result(f"gen_{n}/plan") or {}, journal.result(f"gen_{n}/propose") or {}
    expected = {
        here.plan: planned.get("sha256"),
        here.plan.with_suffix(".json"): planned.get("json_sha256"),
        here.proposal: proposed.get("sha256"),
    }
    for path, sha256 in expected.items():
        if not path.is_file() or sha256_of(path) != sha256:
            return f"gen_{n}/{path.name} was changed since it was written"
    return ""


def sign(journal: Journal, n: int, given: Answer) -> None:
    """Append the answer: whose it is, and to which plan."""
    planned = journal.result(f"gen_{n}/plan") or {}
    signed: dict[str, Any] = {"n": n, "by": _user(), "plan_sha256": planned.get("sha256")}
    if given.why is None:
        journal.append("approved", **signed)
    else:
        journal.append("rejected", **signed, why=one_line(given.why, 500))


def fault(run: RunDir, journal: Record, generation: Finished) -> str:
    """What is wrong with the sign-off of a finished generation, for the verifier; empty when nothing is."""
    steps = generation.steps
    if steps["propose"]["fault"]:
        return ""
    found = answer_to(journal, generation.n)
    if "plan" not in steps or found is None:
        return "went on without a plan that was answered"
    if found["plan_sha256"] != steps["plan"]["sha256"]:
        return "the answer is to another plan"
    if found["event"] == "rejected" and "build" in steps:
        return "rejected, and built all the same"
    return edited(run, journal, generation.n)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user on this machine: containers
        return f"uid {os.getuid()}"
