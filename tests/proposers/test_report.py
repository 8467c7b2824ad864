import json
import os
from pathlib import Path

import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.prompting import render_prompt
from sia_runner.proposers.protocol import Brief
from sia_runner.proposers.recipe_memory import MeasuredVariant, SearchMemory, select_variant
from sia_runner.proposers.recipe_report import IncumbentEvidence, SearchReport
from sia_runner.proposers.recipe_space import Variant
from sia_runner.records import Lever, PastGeneration, Score, Trial
from tests.proposers.synthetic import Bench, experiment, recipes, write_task

GOLDEN = Path(__file__).parent / "golden" / "improvement.md"


def write_evidence(folder: Path) -> Path:
    folder.mkdir()
    summary = {
        "task": "synthetic",
        "metric": {"name": "accuracy", "higher_is_better": True},
        "incumbent": {
            "generation": 2,
            "dev": {"value": 0.74, "ci95": [0.7, 0.78], "n": 500},
            "outcomes": {"correct": 370, "wrong": 127, "no_answer": 3},
        },
        "history": [],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    wrong = [("theft", "robbery")] * 9 + [("fraud", "theft | *with*\n<b>markup</b>")] * 4 + [("fraud", "arson")]
    rows = [{"id": str(i), "text": "…", "kind": "wrong", "prediction": p, "gold": g} for i, (g, p) in enumerate(wrong)]
    rows.append({"id": "x", "text": "…", "kind": "no_answer", "prediction": "", "gold": "theft"})
    (folder / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def measured(
    recipe: str, constants: dict, fraction: float, value: float, seconds: float, failure: str = ""
) -> MeasuredVariant:
    return MeasuredVariant(Variant(recipe, constants), fraction, Trial(value, 500, seconds, failure))


def past(n: int, title: str, status: str, why: str, val: Score | None, recipe: str = "", **constants) -> PastGeneration:
    notes = {"recipe": recipe, "constants": constants} if recipe else {}
    return PastGeneration(n, Lever.HARNESS, title, status, why, val, notes)


def fifth_generation(tmp_path: Path) -> SearchReport:
    """A search after an accepted move, a tie and a candidate that failed. `rich` was tried before, `plain` crashes."""
    space = recipe_space.load_space(write_task(tmp_path / "task").task_folder / "recipes")
    assert space is not None
    history = [
        past(1, "reference harness", "accepted", "first scored candidate", Score(0.3, (0.27, 0.33), 1000)),
        past(2, "decoy at its defaults", "accepted", "gain", Score(0.735, (0.71, 0.76), 1000), "decoy", DEPTH=4),
        past(3, "decoy: DEPTH 4 -> 5", "rejected", "tie", Score(0.74, (0.71, 0.77), 1000), "decoy", DEPTH=5),
        past(4, "decoy: DEPTH 4 -> 9", "failed", "gate: no question was answered", None, "decoy", DEPTH=9),
    ]
    memory = SearchMemory(Brief(5, 9, None, history, 2, True), space)
    made = [
        measured("plain", {"RATE": 0.02}, 0.25, 0.0, 0.31, "crashed: ValueError: no | luck"),
        measured("rich", {"C": 1.5, "SIZE": 6, "MODE": "fast"}, 0.25, 0.702, 3.02),
        measured("decoy", {"DEPTH": 3}, 0.25, 0.668, 1.14),
        measured("decoy", {"DEPTH": 6}, 0.25, 0.672, 1.12),
        measured("rich", {"C": 1.5, "SIZE": 6, "MODE": "fast"}, 1.0, 0.814, 9.87),
        measured("decoy", {"DEPTH": 6}, 1.0, 0.806, 3.9),
    ]
    memory.add(made)
    selected = select_variant(memory, 1.0, baseline=0.748)
    assert selected is not None
    evidence = IncumbentEvidence.read(write_evidence(tmp_path / "evidence"))
    return SearchReport(Brief(5, 9, None, history, 2, True), space, memory, evidence, selected, made)


def test_improvement_md_reads_as_agreed(tmp_path):
    """After a wanted change: SIA_WRITE_GOLDEN=1 pytest tests/proposers/test_report.py, then read the diff."""
    text = fifth_generation(tmp_path).improvement()
    if os.environ.get("SIA_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_every_trial_of_a_real_search_stands_in_its_table(tmp_path):
    [*_, last], _ = experiment(recipes(write_task(tmp_path / "task")), Bench(failing=frozenset({'"plain"'})), 3)
    table = last.improvement.split("## What was tried")[1].split("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(last.notes["trials"])
    for trial in last.notes["trials"]:
        assert trial["failure"] or any(f"{trial['value']:.3f}" in row and trial["recipe"] in row for row in rows)
    assert sum(" proposed |" in row for row in rows) == 1


def test_what_a_harness_answered_cannot_break_the_table(tmp_path):
    text = fifth_generation(tmp_path).improvement()
    assert r"| fraud | theft \| \*with\* \<b>markup\</b> | 4 |" in text


def test_it_never_calls_itself_a_language_model(tmp_path):
    text = fifth_generation(tmp_path).improvement().lower()
    assert not any(word in text.split() for word in ("llm", "i", "model", "ai"))


def test_missing_evidence_reads_as_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    assert IncumbentEvidence.read(None) == IncumbentEvidence()
    assert IncumbentEvidence.read(tmp_path / "empty") == IncumbentEvidence(failures=[])
    (tmp_path / "empty" / "summary.json").write_text('{"incumbent": null}')
    assert IncumbentEvidence.read(tmp_path / "empty").dev_value is None


def test_a_report_without_evidence_still_says_what_was_measured(tmp_path):
    [_, second], _ = experiment(recipes(write_task(tmp_path / "task")), Bench(), 2)
    assert "On 500 dev questions it scores 0." in second.improvement
    assert "confusions" not in second.improvement


def test_a_template_with_a_name_that_nobody_gives_fails_loudly():
    import jinja2

    with pytest.raises(jinja2.UndefinedError, match="'names'"):
        render_prompt("recipes/baseline.md.j2", task="t")
