"""The prompts as they are sent, held against golden files: SIA_GOLDEN=write pytest
tests/proposers/llm/test_prompts.py"""

import os
import sys
from pathlib import Path

import jinja2
import pytest

from sia_runner.proposers import prompting
from sia_runner.proposers.llm import Llm
from sia_runner.records import Lever, PastGeneration, Score, Trial
from tests.proposers.llm.scripted import ENTRY, SETTINGS, SUBMIT, WEIGHTS, Bench, context, evidence, first, later, said

GOLDEN = Path(__file__).parent / "golden"
HISTORY = (
    PastGeneration(1, Lever.HARNESS, "reference harness", "accepted", "the first", Score(0.4, (0.3, 0.5), 100)),
    PastGeneration(
        2,
        Lever.HARNESS,
        "vote | over\nfive samples",
        "rejected",
        "worse: 0.31 against 0.40",
        Score(0.31, (0.22, 0.41), 100),
        {"trials": [{"value": 0.5, "n": 4, "failure": ""}], "expected_effect": "fewer slips"},
    ),
    PastGeneration(3, Lever.HARNESS, "", "failed", "crashed in the gate", None),
)


def sent(folder: Path, brief, settings=None, **facts) -> str:
    bench = Bench([said("", ("submit", SUBMIT))])
    Llm(context(folder, **facts), **(SETTINGS | {"turns": 1} | (settings or {}))).propose(brief, bench)
    system, task = bench.sent[0]
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"{system['content']}\n=====\n{task['content']}".replace(version, "Python 3.11")


def same(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("SIA_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_meta_agent_of_a_harness_that_calls_a_model(tmp_path):
    same("first_with_model.md", sent(tmp_path, first()))


def test_the_feedback_agent_of_a_harness_that_calls_none(tmp_path):
    folder = evidence(tmp_path, {"failures.jsonl": "", "trajectories/q1.md": ""})
    same("improve_without_model.md", sent(tmp_path, later(folder, n=4, history=HISTORY), calls_model=False))


def test_a_sibling_that_extends_another_generation_than_the_best(tmp_path):
    brief = later(evidence(tmp_path), n=4, history=HISTORY, parent=2, incumbent=1, sibling=2, higher_is_better=False)
    same("improve_sibling.md", sent(tmp_path, brief, {"trials": 1}, submission=""))


def test_a_proposer_that_may_train_the_weights_is_told_what_for_and_that_it_is_due(tmp_path):
    same("improve_or_train.md", sent(tmp_path, later(evidence(tmp_path), weights=WEIGHTS)))


def test_improvement_md(tmp_path):
    trials = iter([Trial(0.25, 4, 1.5, "exit code 1: | boom"), Trial(0.75, 4, 2.0)])
    edits = [("edit_file", {"path": f"harness/{ENTRY}", "old": old, "new": new}) for old, new in ["01", "12"]]
    edits[0][1]["old"] = "0.1"
    calls = [edits[0], ("try_harness", {}), edits[1], ("write_file", {"path": "harness/a.txt", "content": ""})]
    bench = Bench([said("", *calls, ("try_harness", {}), ("submit", SUBMIT))], lambda files: next(trials))
    proposal = Llm(context(tmp_path), **SETTINGS).propose(later(evidence(tmp_path)), bench)
    same("improvement.md", proposal.improvement)


def test_siblings_are_sent_different_ways_and_the_first_of_them_none():
    briefs = [later(None, sibling=sibling) for sibling in range(5)]
    for calls_model in (True, False):
        ways = [prompting.direction_for(brief, calls_model) for brief in briefs]
        assert ways[0] == ""
        assert len(set(ways)) == 5
    assert prompting.direction_for(later(None, sibling=1, n=2), True) != prompting.direction_for(
        later(None, sibling=1, n=3), True
    )


def test_a_long_task_and_overview_are_cut_to_their_share_and_name_the_file(tmp_path):
    folder = evidence(tmp_path, {"overview.md": "o" * 500_000, "task.md": "t" * 500_000})
    text = sent(tmp_path, later(folder, history=HISTORY * 500), {"context_kb": 16}, description="t" * 500_000)
    assert len(text.encode()) < 14 * 1024
    assert "(evidence/task.md)" in text
    assert "(evidence/overview.md)" in text
    assert "bytes left out" in text


def test_texts_that_look_like_templates_stay_as_they_are(tmp_path):
    folder = evidence(tmp_path, {"overview.md": "{{ 7 * 7 }} {% raise %}"})
    assert "{{ 7 * 7 }} {% raise %}" in sent(tmp_path, later(folder))


def test_a_template_that_names_what_is_not_given_fails(monkeypatch, tmp_path):
    (tmp_path / "bad.md.j2").write_text("{{ missing }}")
    monkeypatch.setattr(prompting, "_PROMPTS", tmp_path)
    with pytest.raises(jinja2.UndefinedError):
        prompting.render_prompt("bad.md.j2")


def test_a_merge_names_the_partner_and_where_it_differs(tmp_path):
    text = sent(tmp_path, later(evidence(tmp_path), n=6, partner=4))
    assert "Generation 4 does better" in text and "evidence/partner/better.jsonl" in text
    assert "partner" not in sent(tmp_path, later(evidence(tmp_path), n=6))


def test_a_persons_notes_stand_in_the_prompt_and_not_among_the_evidence(tmp_path):
    brief = later(evidence(tmp_path), directions=("look at the `dates`", "then at units"))
    text = sent(tmp_path, brief).partition("=====")[2]
    assert text.index("- look at the \\`dates\\`\n- then at units") < text.index("## The task")
    assert "a person" in sent(tmp_path, first(directions=("keep it short",)))
