"""Runs side by side: which are compared, with what test, and which cannot be."""

from dataclasses import replace

import pytest

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.results.compare import FinishedRun, backends_in_order, compare_runs, runs_in_folders
from sia_runner.store.journal import Journal, JournalReader
from sia_runner.store.run_directory import RunDirectoryError


def outcomes(values):
    return tuple(
        Outcome(f"u{k}", OutcomeKind.CORRECT if value == 1 else OutcomeKind.WRONG, float(value))
        for k, value in enumerate(values)
    )


def arm(name, values, seed=0, **changes):
    value = sum(values) / len(values)
    row = {"run": name, "task": "t", "metric": "accuracy", "seed": seed, "test": {"value": value}}
    made = FinishedRun(row, {"max_gen": 3, "trainer.name": name}, outcomes(values), True, "same", "base", "harness")
    return replace(made, **changes)


HALF, MORE = [1, 0] * 20, [1] * 38 + [0, 1]


def test_a_pair_has_the_exact_two_sided_p_of_mcnemar():
    from scipy.stats import binomtest

    (pair,) = compare_runs([arm("h", HALF), arm("wh", MORE)])["pairs"]
    lost = sum(item > other for item, other in zip(HALF, MORE, strict=True))
    won = sum(item < other for item, other in zip(HALF, MORE, strict=True))
    assert (pair["lost"], pair["won"]) == (lost, won)
    assert pair["p_value"] == pytest.approx(binomtest(won, won + lost).pvalue)
    assert pair["difference"] == pytest.approx((won - lost) / 40)


def test_p_does_not_depend_on_who_is_named_first():
    (item,), (other,) = (
        compare_runs(arms)["pairs"] for arms in ([arm("a", HALF), arm("b", MORE)], [arm("b", MORE), arm("a", HALF)])
    )
    assert item["p_value"] == other["p_value"] and item["difference"] == -other["difference"]


def test_two_equal_runs_are_a_tie():
    (pair,) = compare_runs([arm("a", HALF), arm("b", HALF)])["pairs"]
    assert (pair["p_value"], pair["difference"], pair["standard_error"]) == (1.0, 0.0, 0.0)


def test_where_lower_is_better_a_fall_is_a_win():
    (pair,) = compare_runs([arm(n, v, higher_is_better=False) for n, v in (("a", HALF), ("b", MORE))])["pairs"]
    assert pair["difference"] > 0 and pair["lost"] > pair["won"]


def test_a_run_is_compared_with_the_first_of_its_own_seed():
    sweep = [arm(f"{mode}{seed}", HALF, seed) for mode in ("h", "wh") for seed in (0, 1)]
    assert [(p["old"], p["new"]) for p in compare_runs(sweep)["pairs"]] == [("h0", "wh0"), ("h1", "wh1")]


def test_without_a_shared_seed_all_are_compared_with_the_first_and_it_is_said():
    result = compare_runs([arm(f"r{seed}", HALF, seed) for seed in (0, 1, 2)])
    assert [(p["old"], p["new"]) for p in result["pairs"]] == [("r0", "r1"), ("r0", "r2")]
    assert result["notes"] == ["r0 and r1: other seeds (0, 1)", "r0 and r2: other seeds (0, 2)"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"policy_sha256": "f" * 64}, "a and b began with different policies (base, ffffffffffff)"),
        ({"policy_sha256": None}, "a and b began with different policies (base, none recorded)"),
        ({"harness_sha256": "other"}, "a and b began with different harnesses"),
        ({"config": {"max_gen": 5, "trainer.name": "b"}}, "a and b: max_gen is 3, 5"),
        ({"config": {"trainer.name": "b"}}, "a and b: max_gen is 3, None"),
    ],
)
def test_what_the_two_did_not_have_in_common_beside_the_trainer_is_said(changes, note):
    assert compare_runs([arm("a", HALF), arm("b", MORE, **changes)])["notes"] == [note]


def test_runs_that_differ_in_their_trainer_alone_need_no_note():
    assert compare_runs([arm("a", HALF), arm("b", MORE)])["notes"] == []


def test_a_run_that_left_its_service_is_told_from_one_that_did_not(tmp_path):
    log = Journal(tmp_path / "journal.jsonl")
    for backend in ("tinker", "vllm", "vllm"):
        log.append("resumed", overrides=["max_gen=3", f"target_agent.policy.backend={backend}"])
    log.close()
    assert backends_in_order("tinker", JournalReader(tmp_path / "journal.jsonl")) == "tinker, then vllm"


def test_a_metric_that_is_no_mean_has_a_difference_and_no_test_by_question():
    area = arm("b", MORE)
    area.row["test"]["value"] = 0.9
    (pair,) = compare_runs([arm("a", HALF), area])["pairs"]
    assert pair["difference"] == pytest.approx(0.4)
    assert pair["p_value"] is pair["standard_error"] is pair["won"] is None


def test_one_run_another_test_set_or_another_task_is_refused():
    with pytest.raises(RunDirectoryError, match="one run"):
        compare_runs([arm("a", HALF)])
    with pytest.raises(RunDirectoryError, match="b and a "):
        compare_runs([arm("a", HALF), arm("b", MORE, test_sha256="other")])
    other = arm("b", MORE)
    other.row["task"] = "another"
    with pytest.raises(RunDirectoryError, match="b .*task another, a .* t"):
        compare_runs([arm("a", HALF), other])


def test_a_sweep_is_its_runs_in_the_order_of_their_numbers(tmp_path):
    for name in ("10-x", "2-x", "notes"):
        (tmp_path / name).mkdir()
    for name in ("10-x", "2-x"):
        (tmp_path / name / "config.yaml").touch()
    assert [run.path.name for run in runs_in_folders([tmp_path])] == ["2-x", "10-x"]
    with pytest.raises(RunDirectoryError, match="named twice"):
        runs_in_folders([tmp_path, tmp_path / "2-x"])
    with pytest.raises(RunDirectoryError, match="no run there"):
        runs_in_folders([tmp_path / "notes"])


def test_a_run_that_a_person_directed_is_no_fair_arm():
    steered = arm("b", MORE)
    steered.row["directed"] = 2
    (note,) = compare_runs([arm("a", HALF), steered])["notes"]
    assert note == "a and b: no fair comparison, b was directed by a person, 2 notes"
