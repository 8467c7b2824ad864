"""Of val and test no gold answer reaches a proposer, and of val no question's outcome: whatever a harness or a verifier
does. Real runs of a task in which every answer is a text of its own; all files of all evidence folders are searched."""

import json

import pytest

from sia_runner.experiment.workbench import ProposalWorkbench
from sia_runner.store.run_directory import read_json
from tests.experiment.evidence import secrets_task
from tests.harnesses import CRASH, HEAD

# Answers half of the questions as one who knows the rule: so answers of val stand in submission and scores.json.
SOLVER = (
    HEAD
    + """
import hashlib
def solve(text):
    k = int(text.split()[1])
    return "gold" + hashlib.sha256(f"answer {k}".encode()).hexdigest()[:12] if k % 2 else f"guess {k}"
answer([(q["id"], solve(q["text"])) for q in asked])
"""
)
GUESSER = HEAD + "answer([(q['id'], 'guess') for q in asked])\n"
# Prints all that it was given, and answers with markup, control characters and long texts.
HOSTILE = (
    HEAD
    + r"""
for row in train: print(row)
for row in asked: print("\x1b[2J\x1b]0;owned\x07 ```", row)
print("x" * 1000000)
texts = ["\x1b[31mred\u202e", "```\n# heading\n| a | b |", '{"gold": "forged"}\n{"kind": "correct"}', "\u2028" * 9,
         "z" * 30000, "<script>alert(1)</script>", "ends with ` and |"]
answer([(q["id"], texts[k % len(texts)]) for k, q in enumerate(asked)])
"""
)
TEACHER = HEAD + (
    "for row in train: print(row)\n"
    "told = ' '.join(row['label'] for row in train)\n"
    "answer([(q['id'], told[17 * k % len(told):][:300]) for k, q in enumerate(asked)])\n"
)


def golds(made, *splits):
    units = made.context.task.splits()
    return {secrets_task.gold_of(int(unit)) for split in splits for unit in units[split]}


def texts(made):
    """Every file of every evidence folder of the run."""
    paths = [p for n in range(2, 9) for p in made.run.generation(n).evidence.rglob("*") if p.is_file()]
    return {path.relative_to(made.run.path).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def leaks(made, *splits):
    secret = golds(made, *splits)
    return [(name, gold) for name, text in texts(made).items() for gold in secret if gold in text]


@pytest.fixture(scope="module")
def hostile(make_run, tmp_path_factory):
    """search=last: evidence is about whatever was scored last, the hostile harness included."""
    overrides = secrets_task.make(tmp_path_factory.mktemp("task"))
    return make_run([*overrides, "search=last"], GUESSER, CRASH, SOLVER, HOSTILE, GUESSER)


@pytest.fixture(scope="module")
def careless(make_run, tmp_path_factory):
    """The verifier prints all gold answers, and names the right one in every outcome."""
    overrides = secrets_task.make(tmp_path_factory.mktemp("task"), verifier="python")
    return make_run([*overrides, "search=last"], GUESSER, SOLVER, GUESSER)


@pytest.fixture(params=["hostile", "careless"])
def honest(request):
    return request.getfixturevalue(request.param)


def test_no_gold_answer_of_val_or_test_is_in_any_file_of_any_evidence(honest):
    assert leaks(honest, "val", "test") == []


def test_the_search_would_find_them(honest):
    """Gold of dev is shown on purpose; gold of val stands in scores.json, where no proposer looks."""
    assert len(leaks(honest, "dev")) > 20
    scores = [path.read_text() for path in honest.run.path.glob("gen_*/scores.json")]
    assert any(gold in text for gold in golds(honest, "val") for text in scores)


def test_no_question_of_val_or_test_is_named_but_by_a_harness_that_printed_it(honest):
    units = honest.context.task.splits()
    secret = {f"question {unit} ?" for split in ("val", "test") for unit in units[split]}
    named = {name for name, text in texts(honest).items() if any(question in text for question in secret)}
    assert all(name.endswith("stdout_tail.txt") for name in named), named


def test_the_failures_are_those_of_dev_and_nobody_else(honest):
    dev = {f"question {unit} ?" for unit in honest.context.task.splits()["dev"]}
    for path in honest.run.path.glob("gen_*/evidence/failures.jsonl"):
        asked = [question for question in dev if f'"{question}"' in path.read_text()]
        assert len(asked) == len(path.read_text().splitlines())


def test_what_a_hostile_harness_printed_and_answered_is_shown_bounded_and_without_control_characters(hostile):
    folder = hostile.run.generation(5).evidence
    assert read_json(folder / "summary.json")["parent"]["generation"] == 4
    assert (folder / "stdout_tail.txt").stat().st_size <= 16 * 1024
    for name, text in texts(hostile).items():
        assert not set("\x1b\x07\u202e\r") & set(text), name
    for line in (folder / "failures.jsonl").read_text().splitlines():
        assert json.loads(line)["kind"] != "correct" and len(json.loads(line)["prediction"]) <= 300


def test_an_answer_that_looks_like_evidence_forges_none(hostile):
    folder = hostile.run.generation(5).evidence
    failures = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == len(hostile.context.task.splits()["dev"])
    table = [line for line in (folder / "confusion.md").read_text().splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 4 for line in table)


def test_a_candidate_that_crashed_shows_its_last_words(hostile):
    told = (hostile.run.generation(3).evidence / "history" / "gen_2.md").read_text()
    assert "failed" in told and "## What it printed last\n\n```\nnothing works here" in told


@pytest.fixture(scope="module")
def taught(make_run, tmp_path_factory):
    """Cross-fitted: each run learns from the gold answers of the other folds, val included."""
    return make_run(secrets_task.make(tmp_path_factory.mktemp("task"), folds=2), TEACHER, GUESSER)


def test_a_harness_that_was_taught_val_cannot_tell_it_by_printing_or_answering(taught):
    folder = taught.run.generation(2).evidence
    assert leaks(taught, "test") == [] and not (folder / "stdout_tail.txt").exists()
    told = [json.loads(line)["prediction"] for line in (folder / "failures.jsonl").read_text().splitlines()]
    longest = max(len(gold) for gold in golds(taught, "dev"))
    assert told and all(len(prediction) <= longest for prediction in told), "room for an answer, not for a list"


def test_nor_by_the_answers_of_a_trial(taught, tmp_path):
    bench = ProposalWorkbench(taught.context, 2, tmp_path, None)
    (trial,) = bench.try_out([{"target_agent.py": TEACHER}], share=1.0)
    longest = max(len(gold) for gold in golds(taught, "dev"))
    assert trial.examples and all(len(example["prediction"]) <= longest for example in trial.examples)
    assert not trial.output and trial.n
