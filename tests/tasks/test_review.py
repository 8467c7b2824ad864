"""`tasks check` looks at a task as somebody would who wants a score without doing the work: each planted fault is
found, and a sound task has none."""

from collections.abc import Callable, Iterable

import pytest
import yaml

from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.tasks.review import reviewer
from sia_runner.tasks.review.attacks import ScoringAttacks, hostile_submissions
from sia_runner.tasks.review.leaks import (
    few_questions,
    gold_in_description,
    gold_in_programs,
    gold_in_view,
    leaking_splits,
    telling_columns,
)
from sia_runner.tasks.review.reviewer import check_contract, check_time, unsafe_code
from sia_runner.tasks.review.subject import (
    ReferenceSubmission,
    TaskFinding,
    TaskReview,
    TaskUnderReview,
    comparable_cell,
    rows_of_text,
)
from sia_runner.tasks.table import TableTask
from tests.tasks.broken import FAULTS, GOOD, sound, write
from tests.tasks.making import submit


def subject_of(made, folder):
    write(made, folder / "task")
    declared = yaml.safe_load((folder / "task" / "conf" / "task" / "broken.yaml").read_text())
    (folder / "scratch").mkdir()
    return TaskUnderReview(TableTask(Spec.model_validate(declared), 0, folder / "cache"), folder / "scratch")


def games(subject) -> Iterable[TaskFinding]:
    honest = subject.verify_rows(subject.gold.items())
    return ScoringAttacks(subject, honest.value).findings(lambda _: None)


def contract(subject) -> Iterable[TaskFinding]:
    rows = list(subject.gold.items())
    return check_contract(subject, subject.verify_rows(rows), rows[: len(rows) // 2])


def gathered(look) -> Callable[[TaskUnderReview], list[TaskFinding]]:
    def findings(subject):
        found = TaskReview()
        look(subject, found)
        return found.findings

    return findings


LOOKS = {
    "columns": telling_columns,
    "view": gold_in_view,
    "programs": gold_in_programs,
    "description": gold_in_description,
    "splits": lambda subject: leaking_splits(subject, subject.folder),
    "few": lambda subject: few_questions(subject, lambda _: None),
    "declared": gathered(reviewer._check_declaration),
    "games": games,
    "contract": contract,
    "hostile": lambda subject: hostile_submissions(subject, None),
    "code": unsafe_code,
    "time": lambda subject: check_time(subject, lambda _: None),
    "judge": gathered(lambda subject, found: reviewer._check_verifier(subject, found)),
}
PLANTED = [(fault, code, LOOKS[look]) for fault, (code, look) in FAULTS.items() if look in LOOKS]


@pytest.mark.parametrize(("fault", "code", "look"), PLANTED, ids=[fault.__name__ for fault, *_ in PLANTED])
def test_a_planted_fault_is_found_and_told_with_place_and_remedy(tmp_path, fault, code, look):
    made = sound()
    fault(made)
    one = next((one for one in look(subject_of(made, tmp_path)) if one.code == code), None)
    assert one and one.what and one.where and one.fix
    assert "\n" not in str(one)


@pytest.mark.parametrize("verifier", [None, GOOD], ids=["by name", "of its own"])
def test_a_sound_task_has_no_fault(tmp_path, verifier):
    made = sound()
    if verifier:
        made.verifier(verifier)
    subject = subject_of(made, tmp_path)
    found = reviewer.review(subject.task, tmp_path / "near")
    assert found.findings == []
    assert any("to every question scores" in note for note in found.notes)


@pytest.mark.parametrize("name", ["macro_f1", "log_loss"])
def test_the_reason_of_an_invalid_answer_is_not_taken_for_the_gold_answers_that_occur_in_it(tmp_path, name):
    made = sound()
    short = {"land": "as", "water": "be", "wood": "um"}  # "must be one of the classes", "numbers from 0 to 1"
    for row in made.rows:
        row[-1] = short[row[-1]]
    made.config["metric"] = {"name": name, "verifier": name, "choices": sorted(short.values())}
    made.config["metric"]["higher_is_better"] = name == "macro_f1"
    assert [finding.code for finding in contract(subject_of(made, tmp_path))] == []


OF_LINES = """
from sia_runner.records import Outcome, OutcomeKind

def verify(submission, answers):
    path = submission / "answers.bin"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    given = dict(line.split(b" ", 1) for line in lines if b" " in line)
    for unit, gold in answers.items():
        if unit.encode() in given:
            right = given[unit.encode()] == gold.encode()
            yield Outcome(unit, OutcomeKind.CORRECT if right else OutcomeKind.WRONG, float(right))
"""


@pytest.mark.parametrize(
    ("verifier", "codes"),
    [
        (OF_LINES, set()),
        (
            "import random\n" + OF_LINES.replace("float(right)", "random.random()"),
            {"not-deterministic"},
        ),
        (OF_LINES.replace('if b" " in line', ""), {"judge-fails"}),
    ],
    ids=["sound", "dice", "fails"],
)
def test_where_only_the_task_can_read_a_submission_that_of_the_reference_is_repeated_and_damaged(
    tmp_path, verifier, codes
):
    made = sound()
    made.config["submission"] = "answers.bin"
    made.verifier(verifier)
    task = subject_of(made, tmp_path).task
    view = task.lay_out(task.rounds("select")[0], tmp_path / "view", "s")
    half = {name: task._units.answers[unit] for name, unit in [*view.keys.items()][:30]}
    handed_in = submit(tmp_path / "in", "".join(f"{name} {gold}\n" for name, gold in half.items()), "answers.bin")
    found = reviewer.review(task, tmp_path / "near", ReferenceSubmission(handed_in, view.keys))
    assert {one.code for one in found.findings} >= codes
    assert bool(found.findings) == bool(codes)
    assert any("judging 61 answers takes" in note for note in found.notes)


def test_a_hole_is_told_once_however_many_ways_lead_through_it():
    found = TaskReview()
    found.add(
        [
            TaskFinding("a", "one way", "x", "mend it"),
            TaskFinding("a", "another", "x", "mend it"),
            TaskFinding("a", "b", "y", "c"),
        ]
    )
    assert [one.what for one in found.findings] == ["one way", "b"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "id,label\n17,land\n"),
        ("a.csv", "id;label\n17;land\n"),
        ("a.json", '{"17": "land", "18": "water"}'),
        ("a.json", '[{"id": 17, "label": "land"}]'),
        ("a.json", '{"17": {"label": "land", "n": 3}}'),
        ("a.jsonl", '{"id": 17, "label": "Land"}\n{"id": 18, "label": "water"}\n'),
        ("a.py", "KNOWN = {'17': 'land', '18': 'water'}\n"),
        ("a.py", "KNOWN = {" + ", ".join(f"'{n}': '{'land' if n == 17 else 'x'}'" for n in range(100)) + "}\n"),
        ("a.txt", "17 land\n18 water\n"),
    ],
)
def test_what_stands_together_is_a_row_in_any_text_file(name, text):
    assert any({"17", "land"} <= row for row in rows_of_text(text.encode(), name))


def test_rows_apart_are_not_one():
    for name, text in (
        ("a.csv", "id,label\n17,land\n18,water\n"),
        ("a.json", '[{"id": 17, "label": "land"}, {"id": 18}]'),
    ):
        assert not any({"18", "land"} <= row for row in rows_of_text(text.encode(), name))


def test_spellings_of_one_cell_are_one():
    assert comparable_cell(' "Land" ') == comparable_cell("land") == comparable_cell("('LAND')")
