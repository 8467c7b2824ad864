"""Summarises the weights lever: when it is due, and the results of earlier updates.

Their curves are aggregates over rollouts, on questions that are neither dev nor val nor test.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sia_runner.config import Experiment
from sia_runner.ground.history import finished
from sia_runner.ground.journal import Record
from sia_runner.ground.plaintext import one_line
from sia_runner.propose.search import plateau_length
from sia_runner.records import Past
from sia_runner.rundir import RunDir
from sia_runner.schema.training import allowed

_POINTS = 12  # of a curve
_NEWEST = 10  # updates in the table


def lever(config: Experiment, run: RunDir, n: int, history: Sequence[Past], left_alone: str) -> dict[str, Any] | None:
    """Return the weights entry of summary.json; None where the harness is the only lever.

    `left_alone` says why the weights are not trained although they are due.
    """
    if config.trainer.kind == "none":
        return None
    guaranteed = math.ceil(config.lever.latest * config.max_gen) + 1
    return {
        "algorithms": list(allowed(config.trainer)),
        "plateau": plateau_length(history),
        "due_after_plateau": config.lever.plateau,
        "tried_by_generation": guaranteed if guaranteed <= config.max_gen else None,
        "left_alone": left_alone,
        "updates": list(_updates(run, n)),
    }


def _updates(run: RunDir, n: int) -> Iterator[dict[str, Any]]:
    for generation in finished(Record(run.journal)):
        built = generation.steps.get("build", {})
        if generation.n >= n or generation.steps["propose"]["lever"] not in ("weights", "both"):
            continue
        yield {
            "generation": generation.n,
            "algorithm": generation.steps["propose"]["algorithm"],
            "status": generation.status,
            "steps": built.get("steps", 0),
            "stopped": built.get("stopped", ""),
            "fault": built.get("fault", "") or generation.steps["propose"]["fault"],
            **{curve: _thinned(built.get(curve, [])) for curve in ("reward", "kl", "entropy")},
        }


def _thinned(curve: Sequence[float]) -> list[float]:
    """Return first and last value and some between at equal distances; no negative zeros."""
    if len(curve) <= _POINTS:
        return [round(value, 4) + 0.0 for value in curve]
    last = len(curve) - 1
    return [round(curve[round(k * last / (_POINTS - 1))], 4) + 0.0 for k in range(_POINTS)]


def render(weights: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the section of overview.md on the weights."""
    if weights is None:
        return
    yield "## The weights of the model that the harness calls"
    by = weights["tried_by_generation"]
    yield (
        f"They can be trained on rollouts of the harness ({', '.join(weights['algorithms'])}). By the rules of this "
        f"run that is due after {weights['due_after_plateau']} harnesses in a row that were not accepted (now: "
        f"{weights['plateau']})" + (f", and in generation {by} if nobody did it before." if by else ".")
    )
    if weights["left_alone"]:
        yield f"It is due now, and is not done: {one_line(weights['left_alone'], 400)}."
    if weights["updates"]:
        rows = ["| generation | algorithm | fate | steps | reward of rollouts | KL to the base |"]
        rows += ["| ---: | --- | --- | ---: | --- | --- |"]
        yield "\n".join([*rows, *map(_row, weights["updates"][-_NEWEST:])])


def _row(update: Mapping[str, Any]) -> str:
    fate = update["status"] + (f": {update['fault']}" if update["fault"] else "")
    fate += f"; stopped early: {update['stopped']}" if update["stopped"] else ""
    cells = [update["generation"], update["algorithm"] or "", one_line(fate, 200).replace("|", "\\|"), update["steps"]]
    cells += [" ".join(f"{value:.3g}" for value in update[curve]) for curve in ("reward", "kl")]
    return f"| {' | '.join(map(str, cells))} |"
