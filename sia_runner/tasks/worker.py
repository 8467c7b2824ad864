"""The verifier process: it reads a JSON request from stdin and writes a JSON answer to stdout.

It imports no more than verifying takes. Answer: {"outcomes": [[question, kind, value, prediction], ...]}, or {"error":
what went wrong, without any gold answer}.
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
    """Verify the request on stdin, and write the answer to the original stdout."""
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
    """Return one outcome per id of request["gold"]."""
    gold: dict[str, str] = request["gold"]
    if request["verifier"] == "python":
        return _run_own_verifier(request, gold)
    path = Path(request["submission"]) / request["file"]
    try:
        answers, spoiled = read_cells(
            path, request["id"], request["columns"], gold, request["most_rows"], request["most_bytes"]
        )
    except FileNotFoundError:
        return _outcomes_of(request, {}, set(), gold)
    except UnreadableError as error:
        note = f"({request['file']}: {error})"
        return [
            replace(outcome, kind=OutcomeKind.INVALID_FORMAT, prediction=note)
            for outcome in _outcomes_of(request, {}, set(), gold)
        ]
    return _outcomes_of(request, answers, spoiled, gold)


def _outcomes_of(
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
    """Load verifier.py of a task; it may import modules that lie beside it."""
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location("task_verifier", path)
    if spec is None or spec.loader is None:
        raise BadVerifierError(f"{path.name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_own_verifier(request: Mapping[str, Any], gold: dict[str, str]) -> list[Outcome]:
    """Call the task's own verifier and check its outcomes.

    It is called as `verify(submission, answers)`, or with the questions' fields as a third argument where it takes one,
    and a sandbox for submitted programs (see submission_sandbox) as a fourth.
    """
    verify_all = load_module(Path(request["module"])).verify
    arguments: list[Any] = [Path(request["submission"]), dict(gold)]
    optional = [request["questions"], Chamber(request["sandbox_command"])]
    arguments += optional[: max(0, len(inspect.signature(verify_all).parameters) - len(arguments))]
    by_question: dict[str, Outcome] = {}
    for outcome in verify_all(*arguments):
        if outcome.unit not in gold or outcome.unit in by_question:
            raise BadVerifierError("verify() gave an outcome for an unknown id, or two for one id")
        if not math.isfinite(outcome.value):
            raise BadVerifierError("verify() gave a value that is no finite number")
        by_question[outcome.unit] = _sanitised(outcome)
    if len(by_question) < len(gold) and not request["higher_is_better"]:
        raise BadVerifierError("verify() must give an outcome for every id where lower is better: 0 would be the best")
    return [by_question.get(unit) or Outcome(unit, OutcomeKind.NO_ANSWER, 0.0) for unit in gold]


def _sanitised(outcome: Outcome) -> Outcome:
    """Cut an outcome's text. Where it is no answer, replace it: a task's own code may write gold answers into it."""
    kind = OutcomeKind(outcome.kind)
    text = "(verifier.py could not judge it)" if kind in INFRASTRUCTURE else outcome.prediction[:300]
    return replace(outcome, kind=kind, prediction=text)
