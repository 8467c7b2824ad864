"""What a proposer finds in its folder: about the candidate it shall extend, complete, the same again."""

import json
import re
import shutil
import time
from statistics import fmean

import pytest

from sia_runner.experiment.context import RunContext
from sia_runner.experiment.evidence import folder as budget
from sia_runner.experiment.evidence import folder as reward
from sia_runner.experiment.evidence.folder import write_evidence
from sia_runner.experiment.evidence.history import MOST_LESSONS, distil_lessons, harness_diff
from sia_runner.gateway.ledger import RunLedger
from sia_runner.gateway.prices import Rates
from sia_runner.proposers.recipe_report import IncumbentEvidence
from sia_runner.records import Lever, Outcome, OutcomeKind, PastGeneration, Score
from sia_runner.store.run_directory import RunDir, read_json
from sia_runner.wire.grants import Grant
from tests.harnesses import CRASH, MAJORITY, RAREST, WORDS


@pytest.fixture(scope="module")
def finished(make_run):
    return make_run(["task=smoke"], MAJORITY, WORDS, CRASH, RAREST)


@pytest.fixture
def write(finished, tmp_path):
    def write(parent, incumbent=2, name="evidence", **changes):
        config = finished.context.config.model_copy(
            update={"evidence": finished.context.config.evidence.model_copy(update=changes)}
        )
        write_evidence(RunContext(config, finished.run), 5, finished.history, incumbent, parent, tmp_path / name)
        return tmp_path / name

    return write


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failures(folder):
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def test_it_is_about_the_parent_and_names_the_incumbent(write, finished):
    folder = write(1)
    summary = read_json(folder / "summary.json")
    assert summary["parent"]["generation"] == 1 and summary["incumbent"]["generation"] == 2
    assert summary["parent"].keys() == summary["incumbent"].keys() == {"generation", "val", "dev", "outcomes"}
    assert (folder / "harness" / "target_agent.py").read_text() == MAJORITY
    assert (
        len(failures(folder)) == sum(summary["parent"]["outcomes"].values()) - summary["parent"]["outcomes"]["correct"]
    )
    page = (folder / "overview.md").read_text()
    assert "generation 2: the incumbent |" in page and "generation 1: to be extended |" in page


def test_without_a_parent_of_its_own_it_is_about_the_incumbent(write):
    assert files(write(None, name="one")) == files(write(2, name="two"))


def test_before_anything_was_scored_it_is_the_task_and_what_was_tried(write):
    folder = write(None, incumbent=None)
    there = {path.name for path in folder.iterdir()}
    assert there == {"task.md", "overview.md", "summary.json", "history", "lessons.md"}
    assert "No candidate was scored yet." in (folder / "overview.md").read_text()


def test_every_file_is_named_in_the_overview_and_every_named_file_is_there(write):
    folder = write(1)
    page = (folder / "overview.md").read_text()
    assert all(f"- `{path.name}`: " in page for path in folder.iterdir() if path.name != "overview.md")
    assert page.count("- `") == len(list(folder.iterdir())) - 1


def test_it_is_replaced_whole_and_the_same_again(write, tmp_path):
    first = files(write(1))
    (tmp_path / "evidence" / "left_over.txt").write_text("from a step that was cut")
    assert files(write(1)) == first


def test_the_offline_proposer_reads_it(write):
    read = IncumbentEvidence.read(write(2))
    assert read.incumbent == 2 and read.dev_value and sum(read.outcomes.values()) == 60
    assert len(read.failures) == 60 - read.outcomes["correct"]


@pytest.mark.parametrize(("most", "kb"), [(5, 512), (0, 512), (200, 1)])
def test_failures_stay_within_number_and_bytes(write, most, kb):
    folder = write(1, max_failures=most, max_kib=kb)
    assert len(failures(folder)) <= most and (folder / "failures.jsonl").stat().st_size <= kb * 1024
    assert bool(failures(folder)) == (most > 0)


def test_a_few_failures_stand_for_all_confusions(write):
    """MAJORITY takes every label for the commonest one: two confusions, of which neither may be missing."""
    found = {(failure["gold"], failure["prediction"]) for failure in failures(write(1, max_failures=6))}
    assert len(found) == 2
    summary = read_json(write(1) / "summary.json")
    assert {(c["gold"], c["predicted"]) for c in summary["confusions"]} == found
    assert sum(c["count"] for c in summary["confusions"]) == len(failures(write(1)))


def test_earlier_candidates_have_reason_fate_and_diff_against_what_they_extended(write):
    folder = write(2) / "history"
    assert sorted(path.name for path in folder.iterdir()) == [f"gen_{n}.md" for n in range(1, 5)]
    second = (folder / "gen_2.md").read_text()
    assert "- accepted: gain" in second and "extended generation 1" in second and "replayed from" in second
    assert "+def guess(text):" in second and "-answer([(q['id'], commonest) for q in asked])" in second
    fourth = (folder / "gen_4.md").read_text()
    assert "- rejected: worse" in fourth and "extended generation 2" in fourth and "-def guess(text):" in fourth
    assert "- val: not scored" in (folder / "gen_3.md").read_text()
    assert "--- /dev/null" in (folder / "gen_1.md").read_text()


def test_the_diff_is_against_the_noted_parent_not_the_incumbent(finished, tmp_path):
    noted = [
        p if p.n != 4 else PastGeneration(4, p.lever, p.title, p.status, p.reason, p.val, parent=1)
        for p in finished.history
    ]
    write_evidence(finished.context, 5, noted, 2, 2, tmp_path / "evidence")
    assert "## Changes against generation 1" in (tmp_path / "evidence" / "history" / "gen_4.md").read_text()


def test_a_diff_names_new_deleted_and_changed_files_and_is_bounded():
    before = {"same.py": "1", "gone.py": "a\n", "kept.py": "x\ny\n"}
    after = {"same.py": "1", "new.py": "b\n", "kept.py": "x\nz\n"}
    text = harness_diff(before, after, 10_000)
    assert "--- a/gone.py\n+++ /dev/null" in text and "--- /dev/null\n+++ b/new.py" in text
    assert "-y\n+z" in text and "same.py" not in text
    assert harness_diff(before, before, 100) == "no file changed"
    many = {f"f{k:03}.py": "line\n" * 1500 for k in range(50)}
    assert len(harness_diff({}, many, 5000)) < 7000 and "48 more files changed" in harness_diff({}, many, 16_000)


def test_a_diff_takes_no_time_for_what_is_not_shown():
    """Shuffled lines are the worst there is for difflib."""
    lines, other = [f"x{k % 100}" for k in range(2000)], [f"x{k * 7 % 100}" for k in range(2000)]
    before, after = ({f"{k}.py": "\n".join(text) for k in range(200)} for text in (lines, other))
    began = time.process_time()
    assert "199 more files changed" in harness_diff(before, after, 16 * 1024)
    assert time.process_time() - began < 5


def test_a_file_too_long_to_compare_is_said_to_be():
    assert "too long to compare: 1 lines became 2001" in harness_diff({"a.py": "x"}, {"a.py": "x\n" * 2001}, 1000)


def test_statistics_of_reward():
    values = [0.0, 0.0, 0.0, 1.0, 0.5]
    found = reward.reward_statistics(values)
    assert found and found["n"] == 5 and found["mean"] == fmean(values)
    assert found["share_zero"] == 0.6 and found["share_one"] == 0.2
    assert found["variance"] == pytest.approx(0.16) and found["skew"] == pytest.approx(0.84375)  # as scipy.stats.skew
    flat = reward.reward_statistics([1.0, 1.0])
    assert flat and flat["variance"] == flat["skew"] == 0.0
    assert reward.reward_statistics([]) is None


def test_budget_left_counts_what_earlier_generations_spent_and_keeps_the_reserve(finished, tmp_path):
    limits = finished.context.config.budget.model_copy(
        update={"usd": 10.0, "calls": 100, "minutes": 60.0, "test_reserve": 0.2}
    )
    config = finished.context.config.model_copy(update={"budget": limits})
    run = RunDir(tmp_path)
    shutil.copy(finished.run.journal, run.journal)
    ledger = RunLedger(run.ledger, limits, {"target": Rates(1.0, 1.0, 1.0, 1.0)})
    for generation in (1, 2, 3):
        grant = Grant("target", generation, f"gen_{generation}", "select", tmp_path / "calls.jsonl")
        ledger.reserve(grant, input_tokens=1_000_000, output_tokens=10).settle(input_tokens=1_000_000, output_tokens=0)
    ledger.close()
    assert budget.remaining_budget(config, run, 2) == pytest.approx(
        {"usd": 7.0, "tokens": None, "calls": 79, "minutes": 60.0}, abs=1.0
    )
    later = budget.remaining_budget(config, run, 4)
    assert (later["usd"], later["calls"]) == (5.0, 77)


def test_what_failed_and_why_is_told_by_the_loop_and_only_where_it_is_wanted(write, finished):
    folder, without = write(2), write(2, name="without", memory=False)
    lines = [line for line in (folder / "lessons.md").read_text().splitlines() if line.startswith("- ")]
    failed = [past.n for past in finished.history if past.status in ("failed", "rejected")]
    assert failed == [3, 4] and len(lines) == 2
    crashed, worse = (next(line for line in lines if f"- generation {n}," in line) for n in (3, 4))
    assert "failed: gate" in crashed and "on dev" not in crashed
    assert "rejected: worse" in worse and re.search(
        r"on dev better on \d+ questions, worse on \d+ \(\d+ wrong\)", worse
    )
    assert all(line in (folder / "overview.md").read_text() for line in lines)
    assert not (without / "lessons.md").exists() and "What failed" not in (without / "overview.md").read_text()


def past(n, title, status="rejected", value=0.5, parent=1):
    score = None if value is None else Score(value, (value, value), 10)
    return PastGeneration(n, Lever.HARNESS, title, status, "worse", score, parent=parent)


def outcomes(*values):
    kinds = {1.0: OutcomeKind.CORRECT, 0.0: OutcomeKind.WRONG}
    return [Outcome(f"d{k}", kinds[value], value) for k, value in enumerate(values)]


def test_lessons_join_the_same_idea_and_count_dev_questions_against_the_parent():
    dev = {1: outcomes(1, 1, 0), 2: outcomes(0, 1, 1), 4: outcomes(0, 0, 0)}
    history = [past(1, "first", "accepted"), past(2, "Longer  words"), past(3, "other", "unscored", None)]
    history += [past(4, "longer words"), past(5, "crash", "failed", None)]
    again, crash = distil_lessons(history, dev.__getitem__, True)
    assert (again.generations, again.better, again.worse, again.kinds) == ((2, 4), 0, 2, {"wrong": 2})
    assert (crash.generations, crash.better, crash.worse) == ((5,), 0, 0)
    assert str(again).startswith("- generations 2, 4, `longer words`: rejected: worse; on dev better on 0")
    (lower, _) = distil_lessons(history, dev.__getitem__, False)
    assert (lower.better, lower.worse, lower.kinds) == (2, 0, {})


def test_lessons_are_bounded_and_what_a_proposer_wrote_cannot_break_out_of_its_line():
    history = [past(1, "first", "accepted"), *(past(n, f"idea {n} " + "x" * 999, "failed", None) for n in range(2, 99))]
    lessons = distil_lessons(history, lambda n: [], True)
    assert [lesson.generations for lesson in lessons[:2]] == [((98),), ((97),)] and len(lessons) == MOST_LESSONS
    assert sum(len(str(lesson)) for lesson in lessons) < 12_000
    (hostile,) = distil_lessons([past(2, "a\n# Do this\n- \x1b[31m`now`", "failed", None)], lambda n: [], True)
    assert (
        "\n" not in str(hostile)
        and "\x1b" not in str(hostile)
        and str(hostile).startswith("- generation 2, `a # Do this")
    )
