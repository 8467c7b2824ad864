"""Sign-off: a lever that `approve` names is used only after a person agreed to its plan, gen_<n>/plan.{md,json}."""

import getpass
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.evidence.history import harness_diff
from sia_runner.experiment.harness_files import read_harness
from sia_runner.records import Json, Lever
from sia_runner.stage_results import PlanResult
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import (
    SIGN_OFF_PREFIX,
    Journal,
    JournalReader,
    approval_entry,
    generation_awaiting_approval,
)
from sia_runner.store.run_directory import RunDir, RunDirectoryError, sha256_of, write_json, write_text
from sia_runner.tasks.protocol import Task
from sia_runner.text import fenced_block, one_line, strip_control_characters, truncate_bytes

_RATIONALE_BYTES = 8 * 1024  # bytes
_DIFF_BYTES = 64 * 1024
_COVERED_LEVERS = {
    "none": (),
    "weights": (Lever.WEIGHTS, Lever.BOTH),
    "all": (Lever.WEIGHTS, Lever.BOTH, Lever.HARNESS),
}


def write_plan(context: RunContext, n: int, before: Sequence[GenerationRecord]) -> PlanResult:
    """Write both files from the proposal of generation `n`. Return their hashes, which the journal records."""
    from sia_runner.experiment.costs import plan_costs

    generation = context.run.generation(n)
    proposal = generation.read_proposal()
    parent = proposal.parent
    earlier = read_harness(context.run.generation(parent).harness) if parent else {}
    plan = {
        "generation": n,
        "lever": proposal.lever.value,
        "title": proposal.title,
        "rationale": proposal.rationale,
        "algorithm": proposal.algorithm,
        "settings": proposal.overrides,
        "parent": parent,
        "evidence": proposal.evidence,
        "data": _training_data(context.task) if proposal.trains_weights else None,
        "harness": harness_diff(earlier, proposal.files, _DIFF_BYTES),
        "cost": [asdict(part) for part in plan_costs(context, proposal, before)],
        "proposal_sha256": sha256_of(generation.proposal),
    }
    plan_json = generation.plan.with_suffix(".json")
    write_json(plan_json, plan)
    write_text(generation.plan, _render_plan(plan))
    return PlanResult(sha256_of(generation.plan), sha256_of(plan_json))


def _training_data(task: Task) -> Json:
    questions = sorted(task.splits()["rollout"])
    ids = hashlib.sha256(json.dumps(questions).encode()).hexdigest()
    return {"split": "rollout", "questions": len(questions), "ids_sha256": ids, "files": dict(task.data_hashes())}


def _render_plan(plan: Mapping[str, Any]) -> str:
    parent, data = plan["parent"], plan["data"]
    against = f"generation {parent}" if parent else "nothing: it is the first harness"
    lines = [
        f"# Plan of generation {plan['generation']}: {one_line(plan['title'])}",
        "",
        f"- lever: {plan['lever']}",
        *([f"- algorithm: {plan['algorithm']}"] if plan["algorithm"] else []),
        f"- extends {against}",
        "",
        "## Why",
        "",
        _block(truncate_bytes(plan["rationale"], _RATIONALE_BYTES)),
        "",
        "Measured (decision.json):",
        "",
        _json_block(plan["evidence"]),
        "",
    ]
    if data:
        lines += ["## Training", "", "Settings:", "", _json_block(plan["settings"]), ""]
        lines += [f"Data: {data['questions']} questions of the split `{data['split']}`", ""]
        hashes = [("their ids", data["ids_sha256"]), *sorted(data["files"].items())]
        lines += [*(f"- {one_line(name)}: sha256 {digest}" for name, digest in hashes), ""]
    lines += [f"## Harness, against {against}", "", _block(plan["harness"]), "", "## Cost, estimated", ""]
    head = ["part", "sandbox runs", "questions", "model calls", "tokens", "USD", "minutes", "measured on"]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for part in plan["cost"]:
        values = [part[key] for key in ("sandbox_runs", "questions", "calls", "tokens", "usd", "minutes")]
        cells = ["not known" if value is None else f"{value:,}" for value in values]
        lines.append(f"| {' | '.join([part['name'], *cells, one_line(part['source'])])} |")
    return "\n".join([*lines, ""])


def _block(text: str) -> str:
    return fenced_block(strip_control_characters(text))


def _json_block(data: Any) -> str:
    return _block(json.dumps(data, ensure_ascii=False, indent=1))


class WaitingForApproval(Exception):
    """A run that stops here until a person answers; the message is one line."""


@dataclass(frozen=True, slots=True)
class SignOffAnswer:
    """The answer of a person. `why` is None where the plan is approved."""

    why: str | None = None


def needs_sign_off(config: Experiment, lever: str) -> bool:
    """Return whether this lever needs a sign-off."""
    return lever in _COVERED_LEVERS[config.approve]


def rejection(journal: JournalReader, n: int) -> str | None:
    """Return the reason why generation `n` ends here; None where it may go on. Raises WaitingForApproval meanwhile."""
    answer = approval_entry(journal, n)
    if answer is None:
        raise WaitingForApproval(f"generation {n} waits for approval of gen_{n}/plan.md")
    return f"{SIGN_OFF_PREFIX}{answer['why']}" if answer["event"] == "rejected" else None


def check_waiting(run: RunDir, journal: JournalReader) -> int:
    """Return the generation that waits for an answer. Raises RunDirectoryError if none does, or it was edited."""
    n = generation_awaiting_approval(journal)
    if n is None:
        raise RunDirectoryError(f"{run.path}: no plan waits for approval")
    if change := edited_file(run, journal, n):
        raise RunDirectoryError(f"{run.path}: {change}; nothing was approved")
    return n


def edited_file(run: RunDir, journal: JournalReader, n: int) -> str:
    """Return one line on the plan or proposal that differs from the journal; empty when both are unchanged."""
    generation = run.generation(n)
    planned, proposed = journal.result(f"gen_{n}/plan") or {}, journal.result(f"gen_{n}/propose") or {}
    for path, sha256 in (
        (generation.plan, planned.get("sha256")),
        (generation.plan.with_suffix(".json"), planned.get("json_sha256")),
        (generation.proposal, proposed.get("sha256")),
    ):
        if not path.is_file() or sha256_of(path) != sha256:
            return f"gen_{n}/{path.name} was changed since it was written"
    return ""


def append_answer(run: RunDir, journal: Journal, answer: SignOffAnswer) -> None:
    """Append the answer to the plan that waits, with its author and the plan's hash. Raises like `check_waiting`."""
    n = check_waiting(run, journal)
    try:
        author = getpass.getuser()
    except (OSError, KeyError):  # no such user on this machine: containers
        author = f"uid {os.getuid()}"
    planned = journal.result(f"gen_{n}/plan") or {}
    event, why = ("approved", {}) if answer.why is None else ("rejected", {"why": one_line(answer.why, 500)})
    journal.append(event, n=n, by=author, plan_sha256=planned.get("sha256"), **why)


def sign_off_fault(run: RunDir, journal: JournalReader, generation: GenerationRecord) -> str:
    """Return what is wrong with the sign-off of a finished generation, for `verify`; empty when nothing is."""
    steps = generation.steps
    if steps["propose"]["fault"]:
        return ""
    answer = approval_entry(journal, generation.n)
    if "plan" not in steps or answer is None:
        return "went on without a plan that was answered"
    if answer["plan_sha256"] != steps["plan"]["sha256"]:
        return "the answer is to another plan"
    if answer["event"] == "rejected" and "build" in steps:
        return "rejected, and built all the same"
    return edited_file(run, journal, generation.n)
