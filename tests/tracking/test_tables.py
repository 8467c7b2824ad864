"""Tables hold figures, kinds and stages, and no text that a harness or a model wrote."""

import builtins
import json

from hypothesis import given
from hypothesis import strategies as st

from sia_runner.store.run_directory import RunDir
from sia_runner.tracking.rows import decisions_table, failures_table
from tests.tracking.test_story import generation

SECRET = "What is the capital of Utopia"
SHAPE = {"n": 16, "mean": 0.25, "variance": 0.1, "skew": 1.2, "zero_share": 0.5, "equal_groups": 0.25}


def crashed(n, reason):
    return generation(n, "failed", None, reason=reason, title=SECRET, outcomes={}, seconds={"propose": 1, "gate": 2})


def test_a_failure_says_stage_and_class_of_the_error_and_not_what_the_harness_printed():
    columns, rows = failures_table({"generations": [crashed(1, f"gate: exit code 1: KeyError: '{SECRET}'")]})
    assert dict(zip(columns, rows[0], strict=True)) == {
        "generation": 1, "status": "failed", "stage": "gate", "fault": "KeyError", "kind": None, "count": None,
    }  # fmt: skip
    assert SECRET not in json.dumps(rows)


@given(st.text(), st.from_regex(r"[A-Z][a-z]{3,30}(Error|Exception)", fullmatch=True))
def test_nothing_of_a_reason_is_told_but_the_name_of_an_error_that_is_not_the_harnesss(text, own):
    for reason in (f"gate: exit code 1: {own}: {text}", f"{text} {own}", text):
        ((*_, fault, _kind, _count),) = failures_table({"generations": [crashed(1, reason)]})[1]
        assert fault == "" or (fault in reason and isinstance(getattr(builtins, fault, KeyError), type))


def test_kinds_of_outcomes_that_are_no_success_are_counted():
    of = generation(1, outcomes={"correct": 3, "partial": 1, "wrong": 2, "timeout": 4}, reason="")
    assert [row[-2:] for row in failures_table({"generations": [of]})[1]] == [["wrong", 2], ["timeout", 4]]


def test_a_decision_shows_what_was_measured_before_it(tmp_path):
    run = RunDir(tmp_path)
    run.generation(2).path.mkdir()
    evidence = {"plateau": 1, "shape": SHAPE, "rule": {"rule": "cheap", "reason": SECRET}, "chosen_by": "rules"}
    run.generation(2).decision.write_text(json.dumps({"rationale": SECRET, "evidence": evidence}))
    of = [generation(1, title=SECRET), generation(2, value=0.75, lever="weights", algorithm="grpo", title=SECRET)]
    columns, rows = decisions_table(run, {"generations": of}, texts=False)
    second = dict(zip(columns, rows[1], strict=True))
    assert (second["change"], second["plateau"], second["rule"], second["reward_skew"]) == (0.25, 1, "cheap", 1.2)
    assert SECRET not in json.dumps([columns, rows])


def test_titles_and_rationales_are_told_only_where_somebody_asks_for_them(tmp_path):
    run = RunDir(tmp_path)
    run.generation(1).path.mkdir()
    run.generation(1).decision.write_text(json.dumps({"rationale": "because", "evidence": {}}))
    columns, rows = decisions_table(run, {"generations": [generation(1, title="a title")]}, texts=True)
    assert columns[-2:] == ["title", "rationale"] and rows[0][-2:] == ["a title", "because"]
