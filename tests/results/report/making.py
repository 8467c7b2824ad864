"""Runs as the report reads them, for tests of what is computed from them."""

from dataclasses import replace
from pathlib import Path

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.results.compare import FinishedRun
from sia_runner.results.report.runs import ReportedRun
from sia_runner.results.run import FinalTestResult
from sia_runner.selection.scoring import score_with_interval
from sia_runner.store.generations import GenerationRecord

HALF = [1, 0] * 20
MORE = [1] * 38 + [0, 1]


def outcomes(values):
    kinds = {0: OutcomeKind.WRONG, 1: OutcomeKind.CORRECT}
    return tuple(Outcome(f"u{k}", kinds[value], float(value)) for k, value in enumerate(values))


def finished(name, final, initial=None, *, mode="SIA-H", trainer="none", seed=0, **changes):
    """Two generations, the second one the best; `final` and `initial`: 0 or 1 for each test question."""
    of_final, of_initial = outcomes(final), outcomes(initial or final)
    last, first = score_with_interval(of_final), score_with_interval(of_initial)
    row = {"run": name, "task": "t", "metric": "accuracy", "mode": mode, "seed": seed, "test": last.to_json()}
    row |= {"usage": {"usd": 1.0, "tokens": 1000, "calls": 10}, "seconds": 60.0}
    config = {"trainer.name": trainer, "target_agent": "policy"}
    made = ReportedRun(
        name=name,
        path=Path("/nowhere") / name,
        status="completed",
        why="",
        task="t",
        mode=mode,
        trainer=trainer,
        seed=seed,
        metric="accuracy",
        generations=tuple(GenerationRecord(n, "accepted", "harness", val=val) for n, val in ((1, first), (2, last))),
        best=2,
        tests={1: FinalTestResult(1, first, {}, []), 2: FinalTestResult(2, last, {}, [])},
        answers={1: of_initial, 2: of_final},
        usage={"usd": 1.0, "tokens": 1000, "calls": 10},
        seconds=60.0,
        looks=2,
        config={"task": {"name": "t"}, "trainer": {"mode": mode, "name": trainer}, "seed": seed},
        arm=FinishedRun(row, config, of_final, True, "same", "base", "harness"),
    )
    return replace(made, **changes)


def both(seed, h, wh, **changes):
    """SIA-H and SIA-W+H of one seed."""
    with_weights = {"mode": "SIA-W+H", "trainer": "grpo", "seed": seed} | changes
    return [finished(f"h{seed}", h, seed=seed), finished(f"wh{seed}", wh, **with_weights)]
