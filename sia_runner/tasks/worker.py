"""The verifier process: a JSON request on stdin, a JSON answer on stdout. Imports no more than judging takes.

Answer: {"outcomes": [[unit, kind, value, prediction], ...]} or {"error": what went wrong, without any gold answer}.
"""

import importlib.util
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from sia_runner.records import INFRASTRUCTURE, Outcome, OutcomeKind
from sia_runner.tasks.chamber import Chamber
from sia_runner.tasks.confine import confine, end_with_parent
from sia_runner.tasks.verifiers.common import Judge, choice, exact_match, judge_all, numeric, rank_scores
from sia_runner.tasks.verifiers.letter import letter
from sia_runner.tasks.verifiers.measures import MEASURES, Scale, outcomes
from sia_runner.tasks.verifiers.submission import UnreadableError, read_cells


class BadVerifierError(Exception):
    """verifier.py does not keep its contract."""


def main() -> None:
    end_with_parent()
    answer = os.dup(1)
    os.dup2(2, 1)  # what a verifier prints must not mix with the answer
    request = json.load(sys.stdin.buffer)
    confine(request["cpu_seconds"], request["memory"])
    try:
        rows = [[o.unit, o.kind.value, o.value, o.prediction] for o in verify(request)]
        result: dict[str, Any] = {"outcomes": rows}
    except BadVerifierError as error:
        result = {"error": str(error)}
    except (Exception, RecursionError) as error:  # noqa: BLE001 - whatever the task's own code raises
        result = {"error": type(error).__name__}
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        json.dump(result, stream)


def verify(request: Mapping[str, Any]) -> list[Outcome]:
    gold: dict[str, str] = request["gold"]
    if request["verifier"] == "python":
        return _by_module(request, gold)
    path = Path(request["submission"]) / request["file"]
    try:
        answers, spoiled = read_cells(
            path, request["id"], request["columns"], gold, request["most_rows"], request["most_bytes"]
        )
    except FileNotFoundError:
        return _judged(request, {}, set(), gold)
    except UnreadableError as error:
        note = f"({request['file']}: {error})"
        return [
            replace(outcome, kind=OutcomeKind.INVALID_FORMAT, prediction=note)
            for outcome in _judged(request, {}, set(), gold)
        ]
    return _judged(request, answers, spoiled, gold)


def _judged(
    request: Mapping[str, Any], cells: dict[str, tuple[str, ...]], spoiled: set[str], gold: dict[str, str]
) -> list[Outcome]:
    measure = MEASURES.get(request["verifier"])
    if measure:
        return outcomes(measure, cells, spoiled, gold, Scale(**request["scale"]))
    answers = {unit: answer for unit, (answer,) in cells.items()}
    if request["verifier"] == "auc":
        return rank_scores(answers, spoiled, gold, request["choices"][1])
    judges: dict[str, Callable[[], Judge]] = {
        "exact_match": exact_match,
        "choice": lambda: choice(request["choices"]),
        "letter": lambda: letter(request["choices"]),
        "numeric": lambda: numeric(request["tolerance"]),
    }
    return judge_all(judges[request["verifier"]](), answers, spoiled, gold)


def load_module(path: Path) -> ModuleType:
    """verifier.py of a task; modules beside it can be imported."""
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location("task_verifier", path)
    if spec is None or spec.loader is None:
        raise BadVerifierError(f"{path.name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _by_module(request: Mapping[str, Any], gold: dict[str, str]) -> list[Outcome]:
    """`verify(submission, answers)`, or with the questions' fields as a third argument where it takes one, and the way
    to run a program in the sandbox (Chamber) as a fourth."""
    verify_all = load_module(Path(request["module"])).verify
    arguments: list[Any] = [Path(request["submission"]), dict(gold)]
    more = [request["questions"], Chamber(request["chamber"])]
    arguments += more[: max(0, len(inspect.signature(verify_all).parameters) - len(arguments))]
    found: dict[str, Outcome] = {}
    for outcome in verify_all(*arguments):
        if outcome.unit not in gold or outcome.unit in found:
            raise BadVerifierError("verify() gave an outcome for an unknown id, or two for one id")
        if not math.isfinite(outcome.value):
            raise BadVerifierError("verify() gave a value that is no finite number")
        found[outcome.unit] = _shown(outcome)
    if len(found) < len(gold) and not request["higher_is_better"]:
        raise BadVerifierError("verify() must give an outcome for every id where lower is better: 0 would be the best")
    return [found.get(unit) or Outcome(unit, OutcomeKind.NO_ANSWER, 0.0) for unit in gold]


def _shown(outcome: Outcome) -> Outcome:
    """The text of an outcome that is no answer reaches messages; a task's own code may write gold answers into it."""
    kind = OutcomeKind(outcome.kind)
    text = "(verifier.py could not judge it)" if kind in INFRASTRUCTURE else outcome.prediction[:300]
    return replace(outcome, kind=kind, prediction=text)
