"""Questions by outcome, and the calls made for them."""

import shutil

from sia_runner.results.questions import NOT_VERIFIED, UNTAGGED, QuestionIndex
from tests.results.writing import call, scores


def of(run, place="gen_1"):
    answers = QuestionIndex(run, place)
    assert answers.refresh(10)
    return answers


def test_questions_are_told_apart_by_outcome(tmp_path):
    scores(tmp_path, 1, {"q1": "correct", "q2": "wrong", "frage 3 ü": "wrong"})
    answers = of(tmp_path)
    assert answers.kinds() == {"correct": 1, "wrong": 2}
    total, (first,) = answers.questions("wrong", start=1, limit=1)
    assert (total, first.unit, first.prediction, first.value) == (2, "frage 3 ü", "of frage 3 ü", 0.0)
    assert [q.unit for q in answers.questions(search="q")[1]] == ["q1", "q2"]
    assert answers.questions("no such kind") == (0, [])


def test_the_calls_of_a_question_are_read_when_asked_for(tmp_path):
    scores(tmp_path, 1, {"q1": "correct", "q2": "wrong"})
    for number, (question, text) in enumerate(
        [("id-q2", "a"), ("id-q1", "b"), ("id-q2", '","question":"id-q1'), (None, "d")]
    ):
        call(tmp_path, 1, question, text, number)
    answers = of(tmp_path)
    (wrong,) = answers.questions("wrong")[1]
    assert wrong.calls == 2
    assert [answers.call(at)["response"]["text"] for at in answers.calls(wrong.number)] == ["a", '","question":"id-q1']
    brief = answers.call(answers.calls(wrong.number)[0], text=False)
    assert "request" not in brief
    assert brief["model"] == "model-1"
    assert answers.kinds()[UNTAGGED] == 1
    assert answers.questions(UNTAGGED)[1][0].calls == 1
    assert len(answers.calls(-1)) == 1


def test_calls_of_a_run_under_way_are_there_before_its_scores(tmp_path):
    scores(tmp_path, 1, {"q1": "correct", "q2": "wrong"})
    (tmp_path / "gen_1" / "scores.json").unlink()
    call(tmp_path, 1, "id-q1")
    answers = of(tmp_path)
    assert answers.kinds() == {NOT_VERIFIED: 2}
    call(tmp_path, 1, "id-q1", number=1)
    answers.refresh(10)
    assert [q.calls for q in answers.questions()[1]] == [2, 0]
    scores(tmp_path, 1, {"q1": "correct", "q2": "wrong"})
    answers.refresh(10)
    assert answers.kinds() == {"correct": 1, "wrong": 1}
    assert [q.calls for q in answers.questions()[1]] == [2, 0]


def test_a_step_that_is_done_again_counts_once(tmp_path):
    scores(tmp_path, 1, {"q1": "correct"})
    for number in range(3):
        call(tmp_path, 1, "id-q1", number=number)
    answers = of(tmp_path)
    shutil.rmtree(tmp_path / "gen_1")
    scores(tmp_path, 1, {"q1": "wrong"})
    call(tmp_path, 1, "id-q1")
    answers.refresh(10)
    answers.refresh(10)
    assert [(q.kind, q.calls) for q in answers.questions()[1]] == [("wrong", 1)]


def test_folds_are_one_place(tmp_path):
    scores(tmp_path, 1, {"q1": "correct", "q2": "wrong"})
    for fold, unit in enumerate(("q1", "q2")):
        folder = tmp_path / "gen_1" / f"fold_{fold}"
        folder.mkdir()
        (folder / "keys.json").write_text(f'{{"a": "{unit}"}}')
        call(tmp_path, 2, "a")
        (tmp_path / "gen_2" / "trajectories.jsonl").rename(folder / "trajectories.jsonl")
    assert [(q.unit, q.calls) for q in of(tmp_path).questions()[1]] == [("q1", 1), ("q2", 1)]


def test_nothing_and_nonsense_are_no_questions(tmp_path):
    assert of(tmp_path).kinds() == {}
    (tmp_path / "gen_1").mkdir()
    (tmp_path / "gen_1" / "scores.json").write_text('{"outcomes": [\n  {\n   "unit": 3\n  }\n ]\n}')
    (tmp_path / "gen_1" / "keys.json").write_text("[1]")
    (tmp_path / "gen_1" / "trajectories.jsonl").write_bytes(b'\xff\n{"question": "x\n[]\n')
    answers = of(tmp_path)
    assert answers.kinds() == {UNTAGGED: 1}
    assert answers.call(0) is None
    assert answers.call(99) is None


def test_a_large_file_of_scores_is_read_in_slices(tmp_path):
    outcomes = {f"unit {number:06}": ("correct", "wrong")[number % 2] for number in range(50_000)}
    scores(tmp_path, 1, outcomes)
    answers = QuestionIndex(tmp_path, "gen_1")
    rounds = 1
    while not answers.refresh(0):
        rounds += 1
    assert rounds > 2
    assert answers.kinds() == {"correct": 25_000, "wrong": 25_000}
    assert answers.questions("wrong", start=24_999)[1][0].prediction == "of unit 049999"
