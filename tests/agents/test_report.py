import json
import os
from pathlib import Path

import pytest

from sia_runner.agents.evidence import Evidence
from sia_runner.agents.markdown import render_template
from sia_runner.agents.protocol import Brief
from sia_runner.records import Lever, Past, Score
from tests.agents.synthetic import Bench, experiment, recipes, write_task

GOLDEN = Path(__file__).parent / "golden" / "improvement.md"


def write_evidence(folder: Path) -> Path:
    folder.mkdir()
    summary = {
        "task": "synthetic",
        "metric": {"name": "accuracy", "higher_is_better": True},
        "incumbent": {
            "generation": 3,
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


def fourth_generation(tmp_path):
    """A search after one accepted and one rejected move."""
    context = write_task(tmp_path / "task")
    _, history = experiment(recipes(context, trials=4), Bench(), 2)
    notes = {"recipe": "decoy", "constants": {"DEPTH": 5}}
    history.append(
        Past(3, Lever.HARNESS, "decoy: DEPTH 4 -> 5", "accepted", "better", Score(0.74, (0.71, 0.77), 1000), notes)
    )
    notes = {"recipe": "decoy", "constants": {"DEPTH": 9}}
    history.append(
        Past(4, Lever.HARNESS, "decoy: DEPTH 5 -> 9", "failed", "gate: no question was answered", None, notes)
    )
    brief = Brief(5, 9, write_evidence(tmp_path / "evidence"), tuple(history), 3, True)
    return recipes(context, trials=4).propose(brief, Bench(failing=frozenset({'"plain"'})))


def test_improvement_md_reads_as_agreed(tmp_path):
    """After a wanted change: SIA_WRITE_GOLDEN=1 pytest tests/agents/test_report.py, then read the diff."""
    text = fourth_generation(tmp_path).improvement
    if os.environ.get("SIA_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_every_number_in_the_table_of_trials_is_in_the_notes(tmp_path):
    proposal = fourth_generation(tmp_path)
    table = proposal.improvement.split("## What was tried")[1].split("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(proposal.notes["trials"])
    for trial in proposal.notes["trials"]:
        assert trial["failure"] or any(f"{trial['value']:.3f}" in row and trial["recipe"] in row for row in rows)
    assert sum(" proposed |" in row for row in rows) <= 1


def test_what_a_harness_answered_cannot_break_the_table(tmp_path):
    text = fourth_generation(tmp_path).improvement
    assert r"| fraud | theft \| \*with\* \<b>markup\</b> | 4 |" in text


def test_it_never_calls_itself_a_language_model(tmp_path):
    text = fourth_generation(tmp_path).improvement.lower()
    assert not any(word in text.split() for word in ("llm", "i", "model", "ai"))


def test_missing_evidence_reads_as_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    assert Evidence.read(None) == Evidence()
    assert Evidence.read(tmp_path / "empty") == Evidence(failures=[])
    (tmp_path / "empty" / "summary.json").write_text('{"incumbent": null}')
    assert Evidence.read(tmp_path / "empty").dev_value is None


def test_a_report_without_evidence_still_says_what_was_measured(tmp_path):
    [_, second], _ = experiment(recipes(write_task(tmp_path / "task")), Bench(), 2)
    assert "On 500 dev questions it scores 0." in second.improvement
    assert "confusions" not in second.improvement


def test_a_template_with_a_name_that_nobody_gives_fails_loudly():
    import jinja2

    with pytest.raises(jinja2.UndefinedError, match="'names' is undefined"):
        render_template("baseline.md.j2", task="t")
