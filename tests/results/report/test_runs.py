"""Tests of reading a run, sound or not."""

import shutil

import pytest

from sia_runner.records import Score
from sia_runner.results.report.runs import find_sources
from sia_runner.store.run_directory import RunDirectoryError
from tests.results.report.conftest import summary


@pytest.fixture
def copy(trapped, tmp_path):
    return shutil.copytree(trapped, tmp_path / "copy", symlinks=True)


def test_figures_are_those_of_the_summary(smoke_sweep, trapped, ran):
    runs = [run for run in ran(smoke_sweep, trapped) if run.generations]
    assert len(runs) == 3
    for run in runs:
        output = summary(run.path)
        best = output["best"]
        assert (run.status, run.mode, run.seed, run.metric) == ("completed", output["mode"], output["seed"], "accuracy")
        scores = tuple(Score.from_json(best[key]) for key in ("test", "baseline_test"))
        assert (run.best, run.final, run.initial) == (best["generation"], *scores)
        assert run.usage == output["usage"] and run.faults == ()
        for ours, theirs in zip(run.generations, output["generations"], strict=True):
            assert ours.summary_row() == theirs


def test_rows_of_a_sweep_that_were_refused_are_runs_too(smoke_sweep, ran):
    refused = [run for run in ran(smoke_sweep) if run.status == "refused"]
    assert [(run.mode, run.trainer, run.seed) for run in refused] == [("SIA-W+H", "grpo", 0), ("SIA-W+H", "grpo", 1)]
    assert all("trainer=grpo trains the model that a harness calls" in run.why for run in refused)


def test_a_run_that_was_cut_in_the_middle_of_a_line_is_shown_as_far_as_it_went(copy, ran):
    journal = copy / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    verdict = next(at for at, line in enumerate(lines) if b'"done"' in line and b"gen_1/accept" in line)
    journal.write_bytes(b"".join(lines[: verdict + 2]) + lines[verdict + 2][:40])
    (copy / "summary.json").unlink()
    (run,) = ran(copy)
    assert (run.status, run.best, run.final, run.arm) == ("cut", 1, None, None)
    assert run.generations[0].status == "accepted" and run.generations[0].val.n > 0
    assert run.why == "in generation 2: propose" and run.generations[1].status == "cut"


@pytest.mark.parametrize(
    "name", ["summary.json", "lock.json", "journal.jsonl", "config.yaml", "test/gen_2/scores.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"best": 5, "generations": {"x": 1}}', b"\xff\x00"])
def test_a_damaged_file_is_no_reason_to_stop(copy, ran, name, content):
    (copy / name).write_bytes(content)
    (run,) = ran(copy)
    assert run.arm is None and run.not_compared


def test_scores_that_were_edited_are_not_used(copy, ran):
    scores = copy / "test" / "gen_2" / "scores.json"
    scores.write_text(scores.read_text().replace('"wrong"', '"correct"', 1))
    (run,) = ran(copy)
    assert 2 not in run.answers and 1 in run.answers
    assert run.arm is None and "was changed since it was written" in run.not_compared


def test_a_run_of_another_version_is_shown_and_not_compared(copy, ran):
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text() + "flavour: mild\n")
    (run,) = ran(copy)
    assert run.final and run.answers and run.arm is None
    assert run.not_compared.startswith("its configuration is not one of this version (flavour: ")


def test_a_summary_that_was_edited_is_said_and_the_journal_counts(copy, trapped, ran):
    output = summary(copy)["best"]["test"]["value"]
    (copy / "summary.json").write_text((copy / "summary.json").read_text().replace(str(output), "0.99"))
    (run,) = ran(copy)
    assert run.final.value == output and "summary.json and journal.jsonl disagree" in run.faults[0]


def test_names_are_as_long_as_they_need_to_be(trapped, tmp_path):
    for folder in ("a/x", "b/x", "b/y"):
        shutil.copytree(trapped, tmp_path / folder, symlinks=True)
    assert sorted(result.name for result in find_sources([tmp_path])) == ["a/x", "b/x", "y"]


def test_folders_that_hold_no_run_or_are_named_twice_are_refused(trapped, tmp_path):
    with pytest.raises(RunDirectoryError, match="no run there"):
        find_sources([tmp_path])
    with pytest.raises(RunDirectoryError, match="is named twice"):
        find_sources([trapped, trapped.parent])


def test_a_run_has_the_name_that_its_task_took(copy, ran):
    """The summary of task=mlebench names the competition; the configuration says mlebench for all."""
    text = (copy / "summary.json").read_text()
    (copy / "summary.json").write_text(text.replace('"task": "smoke"', '"task": "mlebench_leaf-classification"'))
    (run,) = ran(copy)
    assert run.task == "mlebench_leaf-classification"
    (copy / "summary.json").unlink()
    assert [run.task for run in ran(copy)] == ["smoke"]
