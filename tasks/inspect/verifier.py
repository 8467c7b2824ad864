"""The verifier of tasks of Inspect AI: their own scorer, with the harness's answer as the last message."""

import asyncio
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loading import Judge

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.tasks.verifiers.submission import UnreadableError, read_answers

SHOWN = 300  # characters of a prediction that are kept
MOST_BYTES = 64 << 20


def verify(submission: Path, answers: Mapping[str, str]) -> list[Outcome]:
    """Return one outcome per question that was answered, or whose answer cannot be read.

    `answers`: id -> JSON with the prepared folder and the sample's number in it.
    """
    try:
        texts, spoiled = read_answers(
            submission / "submission.csv", "id", "answer", answers, 20 * len(answers) + 10_000, MOST_BYTES
        )
    except FileNotFoundError:
        return []
    except UnreadableError as error:
        note = f"(submission.csv: {error})"
        return [Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, note) for unit in answers]
    outcomes = [Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, "(answered twice)") for unit in sorted(spoiled)]
    if texts:
        places = {unit: json.loads(answers[unit]) for unit in texts}
        outcomes += asyncio.run(_judge_all(Judge(Path(next(iter(places.values()))["folder"])), texts, places))
    return outcomes


async def _judge_all(judge: Judge, texts: Mapping[str, str], places: Mapping[str, Any]) -> list[Outcome]:
    outcomes = []
    for unit, text in texts.items():
        try:
            value = await judge.value(places[unit]["sample"], text)
        except Exception as error:  # noqa: BLE001 - it judged an answer before, so this is about the text
            note = f"(the scorer does not take it: {type(error).__name__}) {text}"
            outcomes.append(Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, note[:SHOWN]))
            continue
        value = value if math.isfinite(value) else 0.0  # the scorer found nothing to judge
        kind = OutcomeKind.CORRECT if value >= 1 else OutcomeKind.PARTIAL if value > 0 else OutcomeKind.WRONG
        outcomes.append(Outcome(unit, kind, value, text[:SHOWN]))
    return outcomes
