"""Ctrl-C, SIGTERM and deadlines end each stage of a run with a real chat model within two seconds of a safe point.

Safe points are between two tokens of a batch, between optimizer steps, and between candidates. What is measured is the
time until no process of the run is left, target agents in their sandboxes included. Of a training the test allows the
longest backward pass that it saw, a part of one optimizer step, which nothing can cut.
"""

import contextlib
import json
import os
import shutil
import signal
import time

import psutil
import pytest

pytest.importorskip("torch", reason="a policy needs the extra `training`")

from tests.conftest import ROOT
from tests.scripts import parity, safe_points

BASE = os.environ.get("SIA_SMOLLM2", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not BASE, reason="no SmolLM2: tests/engines/smollm2.py FOLDER, and SIA_SMOLLM2=FOLDER"),
]
SECONDS = 2.0  # from the first safe point
PATIENCE = 400.0  # seconds until the moment comes, on a busy machine
STORY = " Write a long story about it, of at least two thousand words."
LONG = 3000  # tokens, which take many minutes
COPIES = 8  # of each question, as load


class WatchedRun:
    """A run of the real command whose processes log their safe points."""

    def __init__(self, cli, *overrides: str) -> None:
        self.cli, self.points = cli, cli.folder / "points"
        hook = cli.folder / "hook"
        hook.mkdir()
        shutil.copy(safe_points.__file__, hook / "sitecustomize.py")
        environment = {"PYTHONPATH": f"{hook}:{ROOT}", "SIA_SAFE_POINTS": str(self.points)}
        base = [f"target_agent.policy.base={BASE}", f"hydra.run.dir={cli.run}"]
        # a process group of its own, to which a terminal's Ctrl-C goes
        self.runner = cli.start(*overrides, *base, env={**os.environ, **environment}, process_group=0)

    def until(self, moment) -> None:
        deadline = time.monotonic() + PATIENCE
        while not moment():
            assert self.runner.poll() is None and time.monotonic() < deadline, self.output()
            time.sleep(0.01)

    def until_tokens(self, count: int) -> None:
        """Wait until the policy has sampled `count` more tokens."""
        before = len(safe_points.tokens(self.points))
        self.until(lambda: len(safe_points.tokens(self.points)) >= before + count)

    def first_token(self, since: float) -> float:
        """Return the first moment between two tokens after `since`; `since` itself if no batch was under way."""
        return next((at for at in safe_points.tokens(self.points) if at >= since), since)

    def interrupt(self, number: int) -> tuple[float, float]:
        """Interrupt the run; return when that was and when its last process had ended."""
        processes, began = self.processes(), time.monotonic()
        if number == signal.SIGINT:
            os.killpg(self.runner.pid, number)
        else:
            self.runner.send_signal(number)
        ended = all_ended(processes)
        output = self.output()
        assert self.runner.returncode == 130 and f"resume={self.cli.run}" in output and "Traceback" not in output
        assert self.cli.journal[-1]["event"] == "interrupted"
        return began, ended

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the run that have not ended."""
        runner = psutil.Process(self.runner.pid)
        return [process for process in (runner, *runner.children(recursive=True)) if is_alive(process)]

    def target_agents(self) -> list[psutil.Process]:
        return [process for process in self.processes() if "/sandbox/work" in command_line(process)]

    def output(self) -> str:
        return self.runner.communicate(timeout=60)[0]

    def report(self, seconds: float, limit: float) -> None:
        """Assert that the run ended in time, and print how long it took."""
        print(f"{seconds:.2f} s of {limit:.2f} s")
        assert seconds < limit


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def command_line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def all_ended(processes: list[psutil.Process]) -> float:
    """Return when the last of the processes had ended."""
    deadline = time.monotonic() + 60
    while left := [process for process in processes if is_alive(process)]:
        assert time.monotonic() < deadline, [command_line(process) for process in left]
        time.sleep(0.01)
    return time.monotonic()


@pytest.fixture
def start(cli):
    """`start(…)` starts a run, and nothing of it is left afterwards."""
    runs = []

    def go(*overrides):
        runs.append(WatchedRun(cli, *overrides))
        return runs[-1]

    yield go
    for run in runs:
        if run.runner.poll() is None:
            run.runner.kill()
            run.runner.communicate()


def harnesses(folder, **settings):
    """Overrides of a run that replays harnesses and trains nothing."""
    proposed = f"meta_agent.dir={folder / 'parity' / 'proposed'}"
    return [*parity.make(folder, more=STORY, **settings), "meta_agent=replay", proposed, "target_agent=policy"]


@pytest.mark.parametrize(
    ("number", "stage", "questions"),
    [(signal.SIGINT, "gen_1/gate", 2), (signal.SIGTERM, "gen_1", 13), (signal.SIGINT, "test/gen_1", 8)],
    ids=["ctrl-c-in-gate", "sigterm-in-run", "ctrl-c-in-test"],
)
@pytest.mark.parametrize("compute", ["inline", "local"])
def test_a_stage_ends_between_two_tokens(compute, number, stage, questions, cli, start):
    long = f"{LONG} if len(rows) == {questions * COPIES} else 4"
    options = harnesses(cli.folder, max_tokens=long, copies=COPIES)
    run = start(*options, "max_gen=1", f"compute={compute}")
    run.until(lambda: (cli.run / stage / "work").exists())
    run.until_tokens(6)  # the prompts are read by then
    assert run.target_agents()
    began, ended = run.interrupt(number)
    run.report(ended - run.first_token(began), SECONDS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_candidates_that_are_evaluated_at_once_end_together_and_get_no_verdict(number, cli, start):
    options = harnesses(cli.folder, max_tokens=LONG, copies=COPIES, candidates=3)
    first = cli.folder / "parity" / "proposed" / "gen_1" / "target_agent.py"  # it is evaluated alone
    first.write_text(first.read_text().replace(f": {LONG}", ": 4"))
    run = start(*options, "max_gen=3", "search.parallel_candidates=2")
    run.until(lambda: all((cli.run / f"gen_{n}" / "gate" / "work").exists() for n in (2, 3)))
    run.until_tokens(6)
    assert len(run.target_agents()) >= 2
    began, ended = run.interrupt(number)
    run.report(ended - run.first_token(began), SECONDS)
    done = [entry["step"] for entry in cli.journal if entry["event"] == "done"]
    assert not {"gen_2/gate", "gen_3/gate", "gen_2/accept"} & set(done)


UPDATE = ["trainer.checkpoint_every=1", "lever.probe_questions=2"]
BEST_OF_N = ["trainer=best_of_n", "trainer.steps=4", "trainer.prompts=4", "trainer.group_size=4", "trainer.lora.rank=8",
             "trainer.options.rounds=1", "trainer.options.batch=4"]  # fmt: skip


def test_rollouts_of_an_update_end_between_two_tokens(cli, start):
    run = start(*parity.overrides(cli.folder, max_tokens=24, more=STORY))
    run.until(lambda: (cli.run / "gen_2" / "rollouts" / "0.0" / "work").exists())
    run.until_tokens(3)
    began, ended = run.interrupt(signal.SIGTERM)
    run.report(ended - run.first_token(began), SECONDS)


@pytest.mark.parametrize(
    ("number", "processes"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2)],
    ids=["ctrl-c", "sigterm", "sigterm-two-processes"],
)
def test_an_update_ends_between_two_steps_and_a_resumed_one_counts_no_step_twice(number, processes, cli, start):
    options = parity.overrides(cli.folder, max_tokens=24, more=STORY)
    run = start(*options, *UPDATE, f"trainer.processes={processes}")
    saved = cli.run / "gen_2" / "training"
    run.until(lambda: all(safe_points.passes(run.points)) and any(saved.glob("step-000001-*/checkpoint.json")))
    began, ended = run.interrupt(number)
    run.report(ended - began, max(safe_points.passes(run.points)[0]) + SECONDS)
    log = cli.run / "gen_2" / "training.log"
    steps = log.read_text().count("step ")
    assert 1 <= steps < 3
    if number == signal.SIGTERM:
        return  # the resume is the same
    resumed = cli(f"resume={cli.run}", timeout=PATIENCE)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"resumed after step {steps}\n" in log.read_text()
    curve = [json.loads(line)["step"] for line in (cli.run / "gen_2" / "curve.jsonl").read_text().splitlines()]
    (built,) = (e["result"] for e in cli.journal if e["event"] == "done" and e["step"] == "gen_2/build")
    assert curve == [1, 2, 3] and built["steps"] == len(built["reward"]) == 3


def test_supervised_training_ends_between_two_steps(cli, start):
    run = start(*harnesses(cli.folder, max_tokens=24), *BEST_OF_N, *UPDATE, "max_gen=2")
    run.until(lambda: all(safe_points.passes(run.points)))
    began, ended = run.interrupt(signal.SIGINT)
    run.report(ended - began, max(safe_points.passes(run.points)[0]) + SECONDS)


def test_a_deadline_ends_the_gate_while_the_model_is_generating(cli, start):
    run = start(*harnesses(cli.folder, max_tokens=LONG, copies=COPIES), "max_gen=1", "task.limits.gate=12")
    run.until(lambda: (cli.run / "gen_1" / "gate" / "work").exists())
    run.until(run.target_agents)
    agents, processes = run.target_agents(), run.processes()
    cut = all_ended(agents)
    assert safe_points.tokens(run.points)
    run.until(lambda: any(e["event"] == "done" and e["step"] == "gen_1/gate" for e in cli.journal))
    done = time.monotonic()
    run.report(done - run.first_token(cut), SECONDS)
    gate = next(e["result"] for e in cli.journal if e["event"] == "done" and e["step"] == "gen_1/gate")
    assert "timeout after 1" in gate["fault"], gate
    output = run.output()
    assert run.runner.returncode == 3, output
    all_ended(processes)
