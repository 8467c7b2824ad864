"""Writes what a run writes, as the run writes it: journal, scores, model calls."""

import json

from sia_runner.gateway.session import CallRecord, append_record
from sia_runner.store.journal import Journal
from sia_runner.store.run_directory import write_json


def journal(run, *events):
    """Write a journal. Every event is (name, fields)."""
    run.mkdir(parents=True, exist_ok=True)
    book = Journal(run / "journal.jsonl")
    for name, fields in events:
        book.append(name, **fields)
    book.close()


def start(n, step):
    return "start", {"step": f"gen_{n}/{step}"}


def done(n, step, **result):
    return "done", {"step": f"gen_{n}/{step}", "seconds": 1.5, "result": result}


def generation(n, status="accepted", value=0.5, **proposal):
    """The steps of a whole one."""
    proposed = {"lever": "harness", "algorithm": None, "title": f"change {n}", "rationale": "because", "notes": {}}
    val = {"value": value, "ci95": [value - 0.1, value + 0.1], "n": 40}
    return [
        start(n, "propose"),
        done(n, "propose", **(proposed | {"parent": n - 1 or None} | proposal)),
        done(n, "build", fault="", sha256="0" * 64),
        done(n, "verify", val=val, outcomes={"correct": 20, "wrong": 20}),
        done(n, "accept", status=status, reason="gain", difference=0.1, standard_error=0.02, p_value=None),
    ]


def scores(run, n, outcomes):
    """`outcomes`: unit -> kind."""
    folder = run / f"gen_{n}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"unit": u, "kind": k, "value": float(k == "correct"), "prediction": f"of {u}"} for u, k in outcomes.items()
    ]
    write_json(folder / "scores.json", {"outcomes": rows})
    write_json(folder / "keys.json", {f"id-{unit}": unit for unit in outcomes})


def call(run, n, question, text="hello", number=0, notice=""):
    folder = run / f"gen_{n}"
    folder.mkdir(parents=True, exist_ok=True)
    record = CallRecord(f"c{number}", 0.0, f"gen_{n}", "select", question, 0, "chat", "m", model="model-1")
    record.request = {"messages": [{"role": "user", "content": f"ask {text}"}]}
    record.response, record.finish_reason, record.notice = {"text": text}, "stop", notice
    append_record(folder / "trajectories.jsonl", record)


def summary(run, status="completed", **changes):
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("task: {name: smoke}\nmax_gen: 4\nseed: 3\ntrainer: {mode: SIA-H}\n")
    score = {"value": 0.75, "ci95": [0.7, 0.8], "n": 100}
    whole = {
        "run": run.name,
        "task": "smoke",
        "mode": "SIA-H",
        "status": status,
        "seed": 3,
        "metric": {"name": "accuracy", "higher_is_better": True},
        "generations": [{"n": 1, "status": "accepted"}],
        "best": {"generation": 1, "val": score, "test": score, "baseline_test": None},
        "stopped": None,
        "waits": None,
        "usage": {"usd": 1.25, "tokens": 10, "calls": 2},
    }
    (run / "summary.json").write_text(json.dumps(whole | changes))
