"""A folder of synthetic runs, in our layout and in sia-agent's at once: both dashboards are given the same folder.

Journals, scores, calls and summaries have the shapes that a run writes, so that sizes are real. Beside them lie the
files that sia-agent's dashboard looks for: evaluation_results.json, agent_execution/.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from sia_runner.gateway.session import CallRecord, append_record

GENERATIONS = 10
QUESTIONS = 900  # of an ordinary run: those of LawBench's test set
Json = dict[str, Any]


class Lines:
    """A journal as journal.Journal chains it, without waiting for the disk at each of its lines."""

    def __init__(self) -> None:
        self.head, self._lines = "0" * 64, list[bytes]()

    def append(self, event: str, **fields: Any) -> None:
        entry = {"seq": len(self._lines) + 1, "at": "2026-11-21T08:00:00.000+00:00", "event": event}
        line = json.dumps(entry | fields | {"prev": self.head}, ensure_ascii=False).encode()
        self.head = hashlib.sha256(line).hexdigest()
        self._lines.append(line + b"\n")

    def write(self, path: Path) -> None:
        path.write_bytes(b"".join(self._lines))


def make(root: Path, runs: int, calls: int, *, peer: bool) -> Path:
    """`runs` runs and one more with `calls` questions, each with one call. Returns the large one."""
    for number in range(1, runs + 1):
        _run(root / f"run_{number}", number)
    large = root / f"run_{runs + 1}"
    _run(large, runs + 1)
    _large(large, calls, peer=peer)
    _ledger(large, calls)
    return large


def _run(run: Path, seed: int) -> None:
    run.mkdir(parents=True)
    draw = random.Random(seed)
    (run / "config.yaml").write_text(_CONFIG.format(seed=seed))
    (run / "context.md").write_text(f"# run\n\n**Task**: synthetic\n**Max generations**: {GENERATIONS}\n")
    journal = Lines()
    journal.append("began", config_sha256="0" * 64, lock_sha256="0" * 64)
    generations = [_generation(run, journal, n, draw) for n in range(1, GENERATIONS + 1)]
    best = max(generations, key=lambda generation: generation["val"]["value"])
    journal.append("ended", status="completed", best=best["n"])
    journal.write(run / "journal.jsonl")
    usage = {
        "usd": 0.5,
        "tokens": 90_000,
        "calls": 900,
        "input_tokens": 80_000,
        "output_tokens": 10_000,
        "unanswered": 0,
    }
    summary = {
        "run": run.name,
        "task": ("lawbench", "smoke", "arithmetic")[seed % 3],
        "mode": ("SIA-H", "SIA-W+H")[seed % 2],
        "status": "completed",
        "metric": {"name": "accuracy", "higher_is_better": True},
        "seed": seed,
        "generations": generations,
        "best": {
            "generation": best["n"],
            "val": best["val"],
            "test": best["val"],
            "baseline_test": generations[0]["val"],
        },
        "stopped": None,
        "waits": None,
        "usage": usage,
        "journal_head": journal.head,
    }
    _write(run / "summary.json", summary)


def _generation(run: Path, journal: Lines, n: int, draw: random.Random) -> Json:
    folder, value = run / f"gen_{n}", draw.random()
    harness = folder / "harness" / "target_agent.py"
    harness.parent.mkdir(parents=True)
    harness.write_text("".join(f"line_{at} = {draw.randrange(9)}\n" for at in range(200)))
    (folder / "target_agent.py").write_text(harness.read_text())
    (folder / "stdout.log").write_text("answering\n" * 200)
    details = [{"domain": "law", "correct": draw.random() < value} for _ in range(QUESTIONS)]
    _write(folder / "evaluation_results.json", {"accuracy": value, "total": QUESTIONS, "details": details})
    val = {"value": value, "ci95": [value - 0.03, value + 0.03], "n": QUESTIONS}
    outcomes = {"correct": int(QUESTIONS * value), "wrong": QUESTIONS - int(QUESTIONS * value)}
    proposal = {
        "lever": "harness",
        "title": f"change {n}",
        "rationale": "It did better on dev questions. " * 8,
        "notes": {},
    }
    steps: dict[str, Json] = {
        "propose": proposal | {"algorithm": None, "parent": n - 1 or None},
        "build": {"fault": "", "sha256": "0" * 64},
        "verify": {"val": val, "outcomes": outcomes},
        "accept": {"status": "accepted" if n == 1 else "rejected", "reason": "tie within noise"},
    }
    for step, result in steps.items():
        journal.append("start", step=f"gen_{n}/{step}")
        journal.append("done", step=f"gen_{n}/{step}", seconds=1.0, result=result)
    summary = {
        "n": n,
        "status": steps["accept"]["status"],
        "val": val,
        "outcomes": outcomes,
        "reason": "tie within noise",
    }
    return summary | {"lever": "harness", "title": f"change {n}", "seconds": {"propose": 1.0}, "usage": {"usd": 0.05}}


def _large(run: Path, calls: int, *, peer: bool) -> None:
    """Write the large run, whose first generation asked `calls` questions."""
    folder = run / "gen_1"
    draw = random.Random(0)
    units = [f"case-{number:06}" for number in range(calls)]
    rows = [{"unit": unit, "kind": _kind(draw), "value": 0.0, "prediction": f"an answer to {unit}"} for unit in units]
    _write(folder / "scores.json", {"outcomes": rows})
    _write(folder / "keys.json", {f"{number:08x}": unit for number, unit in enumerate(units)})
    target = folder / "trajectories.jsonl"
    if peer:
        (folder / "agent_execution").mkdir()
    for number in range(calls):
        record = CallRecord(f"{number:032x}", 1.0, "gen_1", "select", f"{number:08x}", 0, "chat", "gpt-oss-120b")
        question = f"Question {number}. " + "The facts of the case are as follows. " * 16
        record.request = {
            "messages": [
                {"role": "system", "content": "Answer with one charge."},
                {"role": "user", "content": question},
            ]
        }
        record.response, record.model, record.finish_reason = (
            {"text": "theft, because " + "of that " * 30},
            "gpt-oss-120b",
            "stop",
        )
        append_record(target, record)
        if peer:
            turns = json.dumps([*record.request["messages"], {"role": "assistant", "content": record.response["text"]}])
            (folder / "agent_execution" / f"execution_q{number}.json").write_text(turns)


def _ledger(run: Path, calls: int) -> None:
    """Two lines for each call, as models/ledger.py writes them."""
    account = {"role": "target", "generation": 1, "candidate": "gen_1", "purpose": "select"}
    (run / "ledger").mkdir()
    with (run / "ledger" / "20261121T080000-00000000.jsonl").open("w") as ledger:
        for number in range(1, calls + 1):
            entry = {"sent": number, "at": 1795276732.147} | account | {"input": 443, "output": 256, "usd": 0.0002}
            done = {"done": number, "at": 1795276733.2, "input": 230, "output": 61, "cached": 0, "usd": 0.0001}
            ledger.write(f"{json.dumps(entry, separators=(',', ':'))}\n{json.dumps(done, separators=(',', ':'))}\n")


def _kind(draw: random.Random) -> str:
    return draw.choices(["correct", "wrong", "no_answer", "truncated"], [70, 25, 4, 1])[0]


def _write(path: Path, data: Any) -> None:
    """Write JSON like rundir.write_json, without waiting for the disk."""
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n")


_CONFIG = """task: {{name: synthetic, metric: accuracy}}
max_gen: 10
seed: {seed}
trainer: {{mode: SIA-H}}
budget: {{usd: 5.0, tokens: null, calls: null, minutes: null}}
"""
