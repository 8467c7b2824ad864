"""search.parallel_candidates: whole runs with candidates of different durations, and the same verdicts all the same."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.harnesses import MAJORITY, RAREST, WORDS

# What is proposed depends on every verdict it is told of, so that a history of another length gives another run.
PROPOSER = """
import json, pathlib, time
from sia_runner.records import Lever, Proposal

HARNESSES = json.loads(pathlib.Path(__file__).with_name("harnesses.json").read_text())
PAUSES = json.loads(pathlib.Path(__file__).with_name("pauses.json").read_text())

class Scripted:
    def __init__(self, context, *, stop):
        self.stop = stop

    def propose(self, brief, workbench):
        if brief.n == self.stop:
            return Proposal(Lever.STOP, "enough")
        known = [(past.n, past.status) for past in brief.history]
        name = sorted(HARNESSES)[(brief.n + 2 * len([1 for _, status in known if status == "accepted"])) % 3]
        sleep = f"import time; time.sleep({PAUSES[brief.n - 1]})\\n"
        files = {"target_agent.py": sleep + HARNESSES[name]}
        return Proposal(Lever.HARNESS, f"knows {known}", files, title=f"{name} as {brief.sibling}")
"""


@pytest.fixture
def prepare(cli):
    """The overrides of a run whose candidates take `pauses` seconds longer, by number."""

    def go(pauses, *overrides, stop=None):
        (cli.folder / "scripted.py").write_text(PROPOSER)
        names = {"majority": MAJORITY, "rarest": RAREST, "words": WORDS}
        (cli.folder / "harnesses.json").write_text(json.dumps(names))
        (cli.folder / "pauses.json").write_text(json.dumps(pauses))
        (cli.folder / "conf" / "meta_agent").mkdir(parents=True, exist_ok=True)
        chosen = {"name": "scripted", "_target_": "scripted.Scripted", "stop": stop}
        (cli.folder / "conf" / "meta_agent" / "scripted.yaml").write_text(json.dumps(chosen))
        chosen = [
            "meta_agent=scripted",
            f"max_gen={len(pauses)}",
            "search.parallel_candidates=3",
            f"hydra.run.dir={cli.run}",
        ]
        return [*chosen, *overrides, "--config-dir", str(cli.folder / "conf")]

    return go


@pytest.fixture
def environment(cli):
    return {"PYTHONPATH": f"{cli.folder}:{ROOT}"}


@pytest.fixture
def run(cli, prepare, environment):
    def go(name, pauses, *overrides, **how):
        cli.run = cli.folder / name
        done = cli(*prepare(pauses, *overrides, **how), env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return verdicts(cli)

    return go


def verdicts(cli):
    keys = ("n", "title", "status", "reason", "parent", "val")
    return [{key: g[key] for key in keys} for g in cli.summary["generations"]], cli.summary["best"]


def rationales(cli):
    done = {e["step"]: e["result"] for e in cli.journal if e["event"] == "done"}
    return {n: done[f"gen_{n}/propose"]["rationale"] for n in range(1, 20) if f"gen_{n}/propose" in done}


def done(cli):
    return [e["step"] for e in cli.journal if e["event"] == "done"]


@pytest.mark.slow
def test_the_same_run_whatever_takes_how_long(cli, run):
    first = run("one", [0, 0.8, 0, 0, 0.4, 0])
    told = rationales(cli)
    steps = done(cli)
    assert steps.index("gen_4/verify") < steps.index("gen_2/verify"), "they did not overtake one another"
    assert run("two", [0, 0, 0.6, 0.3, 0, 0.2]) == first
    assert rationales(cli) == told
    statuses = [(g["n"], g["status"]) for g in first[0]]
    assert len(statuses) == 6 and {"accepted", "rejected"} <= {status for _, status in statuses}
    assert told[4] == f"knows {statuses[:1]}" and told[6] == f"knows {statuses[:3]}"


WORKERS = ["compute=local", "compute.pool=2"]


@pytest.mark.slow
@pytest.mark.parametrize("compute", [[], WORKERS], ids=["inline", "pool"])
def test_after_a_kill_the_rest_is_done_and_nothing_twice(cli, run, prepare, environment, compute):
    whole = run("whole", [0, 0, 0, 0, 0])
    cli.run = cli.folder / "cut"
    process = cli.start(*prepare([0, 4.0, 0, 0, 0], *compute), env=_with(environment))
    until(lambda: (cli.run / "journal.jsonl").is_file() and "gen_4/verify" in done(cli))
    assert "gen_2/accept" not in done(cli)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = cli(f"resume={cli.run}", env=environment)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert verdicts(cli) == whole
    assert len(done(cli)) == len(set(done(cli)))


@pytest.mark.parametrize("compute", [[], WORKERS], ids=["inline", "pool"])
@pytest.mark.slow
def test_an_interrupt_ends_it_at_once_and_resumably(cli, prepare, environment, compute):
    process = cli.start(*prepare([0, 20, 20, 20, 0], *compute), env=_with(environment))
    until(lambda: (cli.run / "journal.jsonl").is_file() and "gen_4/propose" in done(cli))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=15)
    assert process.returncode == 130 and f"resume={cli.run}" in said
    until(lambda: not processes_about(cli.run), 10)


def processes_about(folder):
    """Command lines of other processes that name `folder`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


@pytest.mark.slow
def test_workers_of_a_pool_give_the_same_run_and_the_steps_are_theirs(cli, run, environment):
    inline = run("inline", [0, 0.4, 0, 0])
    assert run("pool", [0, 0, 0.4, 0], *WORKERS) == inline
    jobs = {e["step"]: e["job"] for e in cli.journal if e["event"] == "job"}
    assert {step for step, job in jobs.items() if job.startswith("worker:")} == {
        f"gen_{n}/{step}" for n in range(1, 5) for step in ("gate", "run", "verify")
    }
    until(lambda: not processes_about(cli.run), 10)
    command = [sys.executable, "-m", "sia_runner", "verify", str(cli.run)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env=_with(environment))
    assert checked.returncode == 0, checked.stdout


def test_a_stop_drops_what_was_proposed_behind_it(cli, run):
    generations, _ = run("stop", [0, 0.5, 0, 0, 0, 0], stop=3)
    assert [g["n"] for g in generations] == [1, 2]
    assert cli.summary["stopped"] == "enough" and cli.summary["status"] == "completed"


@pytest.mark.slow
def test_at_a_plateau_nothing_more_begins_and_what_is_under_way_is_judged(cli, run):
    first, _ = run("plateau", [0] * 12, "search.patience=2")
    assert "no candidate was accepted in the last 2 generations" in cli.summary["stopped"]
    assert len(first) < 12
    again, _ = run("again", [0, 0.3] * 6, "search.patience=2")
    assert again == first


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "search.proposals_per_generation=2",
            "=3 writes proposals side by side already; allowed with it: search.proposals_per_generation=1",
        ),
        ("approve=all", "approve=all waits for a person; allowed: approve=none"),
        ("trainer=grpo", "(trainer=grpo) starts from the incumbent's; allowed with it: trainer=none"),
    ],
)
def test_what_cannot_go_on_side_by_side_is_refused(cli, prepare, environment, override, said):
    refused = cli(*prepare([0, 0], override), env=environment)
    assert refused.returncode == 2 and said in refused.stdout + refused.stderr


def _with(environment):
    return {**os.environ, **environment}


def until(happened, timeout=60.0):
    end = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
