"""Writes gen_<n>/plan.md and plan.json for a person to sign: the change, reasons, data and cost of a lever."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sia_runner.approve.plan_costs import parts
from sia_runner.candidate.harness import read_harness
from sia_runner.config import Experiment
from sia_runner.evidence.past import diff
from sia_runner.ground.history import Finished
from sia_runner.ground.plaintext import cut, fenced, one_line, plain
from sia_runner.records import Lever
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, read_json, sha256_of, write_json, write_text

Json = dict[str, Any]
_RATIONALE = 8 * 1024  # bytes
_DIFF = 64 * 1024


def write(config: Experiment, run: RunDir, n: int, before: Sequence[Finished]) -> Json:
    """Write both files from the proposal and decision of generation `n`. Return their hashes."""
    generation, proposal = run.generation(n), read_json(run.generation(n).proposal)
    decision = read_json(generation.decision)
    parent = decision["evidence"]["parent"]
    weights = proposal["lever"] in (Lever.WEIGHTS, Lever.BOTH)
    earlier = read_harness(run.generation(parent).harness) if parent else {}
    plan = {
        "generation": n,
        "lever": proposal["lever"],
        "title": proposal["title"],
        "rationale": proposal["rationale"],
        "algorithm": proposal["algorithm"],
        "settings": proposal["overrides"],
        "parent": parent,
        "evidence": decision["evidence"],
        "data": _data(config) if weights else None,
        "harness": diff(earlier, proposal["files"], _DIFF),
        "cost": [part.as_json() for part in parts(config, run, proposal, decision["evidence"], before)],
        "proposal_sha256": sha256_of(generation.proposal),
    }
    write_json(generation.plan.with_suffix(".json"), plan)
    write_text(generation.plan, render(plan))
    return {"sha256": sha256_of(generation.plan), "json_sha256": sha256_of(generation.plan.with_suffix(".json"))}


def _data(config: Experiment) -> Json:
    """Return the number and hash of the rollout questions, without their text."""
    task = rooms(config).task
    questions = sorted(task.splits()["rollout"])
    ids = hashlib.sha256(json.dumps(questions).encode()).hexdigest()
    return {"split": "rollout", "questions": len(questions), "ids_sha256": ids, "files": dict(task.data_hashes())}


def render(plan: Mapping[str, Any]) -> str:
    """Return plan.md as text."""
    lever, parent = plan["lever"], plan["parent"]
    against = f"generation {parent}" if parent else "nothing: it is the first harness"
    lines = [
        f"# Plan of generation {plan['generation']}: {one_line(plan['title'])}",
        "",
        f"- lever: {lever}",
        *([f"- algorithm: {plan['algorithm']}"] if plan["algorithm"] else []),
        f"- extends {against}",
        "",
        "## Why",
        "",
        fenced(plain(cut(plan["rationale"], _RATIONALE))),
        "",
        "Measured (decision.json):",
        "",
        _json(plan["evidence"]),
        "",
    ]
    if plan["data"]:
        data = plan["data"]
        lines += ["## Training", "", "Settings:", "", _json(plan["settings"]), ""]
        lines += [f"Data: {data['questions']} questions of the split `{data['split']}`", ""]
        lines += [f"- their ids: sha256 {data['ids_sha256']}"]
        lines += [f"- {one_line(name)}: sha256 {digest}" for name, digest in sorted(data["files"].items())]
        lines += [""]
    lines += [f"## Harness, against {against}", "", fenced(plain(plan["harness"])), ""]
    return "\n".join([*lines, *_cost(plan["cost"]), ""])


def _cost(costs: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["part", "sandbox runs", "questions", "model calls", "tokens", "USD", "minutes", "measured on"]
    lines = ["## Cost, estimated", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for part in costs:
        cells = [_number(part[key]) for key in ("sandbox_runs", "questions", "calls", "tokens", "usd", "minutes")]
        lines.append(f"| {' | '.join([part['name'], *cells, one_line(part['source'])])} |")
    return lines


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _json(data: Any) -> str:
    return fenced(plain(json.dumps(data, ensure_ascii=False, indent=1)))
