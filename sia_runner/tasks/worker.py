"""The verifier process: it reads a JSON request from stdin and writes a JSON answer to stdout.

It imports no more than verifying takes, limits its own resources and ends with the runner. Answer: {"outcomes":
[[question, kind, value, prediction], ...]}, or {"error": what went wrong, without any gold answer}. Verifiers and
evaluators are the task's own code: they are bounded against accidents, not jailed.
"""

import importlib.util
import inspect
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from sia_runner.records import INFRASTRUCTURE_KINDS, Outcome, OutcomeKind
from sia_runner.tasks.process import limit_resources
from sia_runner.tasks.submission_sandbox import SubmissionSandbox
from sia_runner.tasks.verifiers.answers import judge_all, judge_named, rank_scores
from sia_runner.tasks.verifiers.measures import MEASURES, Scale, measure_outcomes
from sia_runner.tasks.verifiers.submission import UnreadableError, read_cells


def _end_with_parent() -> None:
    """End this process when its parent process has gone."""
    parent = os.getppid()  # PDEATHSIG follows the thread that started us, which may end long before the runner does

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class BadVerifierError(Exception):
    """verifier.py does not keep its contract."""


class Verifier(Protocol):
    """The contract of a task's verifier.py, a module, and of a class of the user's own, built without arguments.

    Either may also have `aggregate(outcomes) -> float`: the metric, where it is not the mean of the outcomes' values.
    """

    def verify(
        self,
        submission: Path,
        answers: Mapping[str, str],
        questions: Mapping[str, Mapping[str, str]],
        sandbox: SubmissionSandbox,
    ) -> Iterable[Outcome]:
        """Return at most one outcome per id of `answers`; ids left out count as not answered.

        `submission`: the folder that the harness wrote, hostile. `questions`: id -> fields of the question; `sandbox`:
        for submissions that are programs. The last two may be left out of the signature.
        """
        ...


def main() -> None:
    """Verify the request on stdin, and write the answer to the original stdout."""
    _end_with_parent()
    answer = os.dup(1)
    os.dup2(2, 1)  # what a verifier prints must not mix with the answer
    request = json.load(sys.stdin.buffer)
    limit_resources(request["cpu_seconds"], request["memory"])
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
    if request["verifier"] == "python" or "." in request["verifier"]:
        return _run_own_verifier(request)
    path, limits = Path(request["submission"]) / request["file"], (request["most_rows"], request["most_bytes"])
    cells, note = ({}, set[str]()), ""
    try:
        cells = read_cells(path, request["id"], request["columns"], gold, *limits)
    except FileNotFoundError:
        pass
    except UnreadableError as error:
        note = f"({request['file']}: {error})"
    outcomes = _judge_cells(request, *cells)
    return [replace(o, kind=OutcomeKind.INVALID_FORMAT, prediction=note) for o in outcomes] if note else outcomes


def _judge_cells(request: Mapping[str, Any], cells: dict[str, tuple[str, ...]], spoiled: set[str]) -> list[Outcome]:
    gold: dict[str, str] = request["gold"]
    if measure := MEASURES.get(request["verifier"]):
        return measure_outcomes(measure, cells, spoiled, gold, Scale(**request["scale"]))
    answers = {unit: answer for unit, (answer,) in cells.items()}
    if request["verifier"] == "auc":
        return rank_scores(answers, spoiled, gold, request["choices"][1])
    judge = judge_named(request["verifier"], request["choices"], request["tolerance"])
    return judge_all(judge, answers, spoiled, gold)


def load_verifier(name: str, path: Path) -> Any:
    """Return an instance of the class ``module.Class``, or for `python` the module at `path`. Raises ComponentError."""
    if name == "python":
        return load_module(path)
    from sia_runner.config.base import new_component  # with pydantic, which most verifiers do without

    return new_component(name, Verifier)


def load_module(path: Path) -> ModuleType:
    """Load verifier.py of a task; it may import modules that lie beside it."""
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location("task_verifier", path)
    if spec is None or spec.loader is None:
        raise BadVerifierError(f"{path.name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_own_verifier(request: Mapping[str, Any]) -> list[Outcome]:
    """Call the task's own verifier with as many arguments as it takes (see `Verifier`), and check its outcomes."""
    gold: dict[str, str] = request["gold"]
    sys.path += request["path"]
    verify_all = load_verifier(request["verifier"], Path(request["module"])).verify
    arguments: list[Any] = [Path(request["submission"]), dict(gold)]
    optional = [request["questions"], SubmissionSandbox(request["sandbox_command"])]
    arguments += optional[: max(0, len(inspect.signature(verify_all).parameters) - len(arguments))]
    by_question: dict[str, Outcome] = {}
    for outcome in verify_all(*arguments):
        if outcome.unit not in gold or outcome.unit in by_question:
            raise BadVerifierError("verify() gave an outcome for an unknown id, or two for one id")
        if not math.isfinite(outcome.value):
            raise BadVerifierError("verify() gave a value that is no finite number")
        kind, text = OutcomeKind(outcome.kind), outcome.prediction[:300]
        if kind in INFRASTRUCTURE_KINDS:  # no answer: a task's own code may write gold answers into it
            text = "(verifier.py could not judge it)"
        by_question[outcome.unit] = replace(outcome, kind=kind, prediction=text)
    if len(by_question) < len(gold) and not request["higher_is_better"]:
        raise BadVerifierError("verify() must give an outcome for every id where lower is better: 0 would be the best")
    return [by_question.get(unit) or Outcome(unit, OutcomeKind.NO_ANSWER, 0.0) for unit in gold]
