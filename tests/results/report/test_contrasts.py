"""Arms side by side: who is paired with whom, and what is claimed."""

import pytest

from sia_runner.records import Score
from sia_runner.results.report.analysis import DIRECTED, UNFAIR, contrast_arms, group_runs, report_sections
from sia_runner.results.report.tables import column_heads, paper_rows, row_cells
from sia_runner.results.run import FinalTestResult
from sia_runner.store.directions import Direction
from tests.results.report.making import HALF, MORE, both, finished

LESS = [0] * 38 + [1, 0]


def contrast(runs):
    (group,) = group_runs(runs)
    (result,) = contrast_arms(group)
    return result


def test_runs_are_paired_by_seed():
    result = contrast([*both(0, HALF, MORE), *both(1, HALF, MORE)])
    assert [(pair.old.name, pair.new.name) for pair in result.pairs] == [("h0", "wh0"), ("h1", "wh1")]
    assert result.unpaired == ()


def test_equal_answers_are_a_tie():
    (pair,) = contrast(both(0, HALF, HALF)).pairs
    assert (pair.difference, pair.lost, pair.won, pair.p_value, pair.verdict) == (0.0, 0, 0, 1.0, "tie")


def test_one_seed_speaks_for_itself_only():
    assert contrast(both(0, HALF, MORE)).verdict == "SIA-W+H · grpo better, one seed"
    assert contrast(both(0, HALF, HALF)).verdict == "tie, one seed"


def test_seeds_that_disagree_are_a_tie_however_clear_each_of_them_is():
    result = contrast([*both(0, HALF, MORE), *both(1, HALF, LESS)])
    assert [pair.verdict for pair in result.pairs] == ["SIA-W+H · grpo better", "SIA-H better"]
    assert result.verdict == "tie"


def test_seeds_that_agree_are_a_difference():
    fewer = [1] * 36 + [0, 1, 0, 1]
    result = contrast([*both(0, HALF, MORE), *both(1, HALF, fewer), *both(2, HALF, MORE)])
    assert result.verdict == "SIA-W+H · grpo better"
    assert result.over_seeds.value == pytest.approx((2 * (39 - 20) + (38 - 20)) / 3 / 40)


def test_p_values_are_adjusted_for_the_number_of_pairs():
    item = contrast(both(0, HALF, MORE)).pairs[0]
    three = contrast([run for seed in range(3) for run in both(seed, HALF, MORE)]).pairs[0]
    assert item.p_holm == item.p_value and three.p_holm == pytest.approx(3 * three.p_value)


def test_a_seed_without_a_partner_is_named_and_not_compared():
    result = contrast([*both(0, HALF, MORE), finished("h1", HALF, seed=1)])
    assert len(result.pairs) == 1 and result.unpaired == (1,)


def test_other_test_questions_are_another_group():
    h, wh = both(0, HALF, MORE)
    other = finished("elsewhere", HALF[:20], seed=0)
    object.__setattr__(other.arm, "test_sha256", "other")
    assert len(group_runs([h, wh, other])) == 2


def test_a_run_without_a_score_is_missed_where_it_belongs():
    lost = finished("wh1", HALF, mode="SIA-W+H", trainer="grpo", seed=1, arm=None, tests={}, status="cut")
    (group,) = group_runs([*both(0, HALF, MORE), lost])
    (row,) = paper_rows(group, contrast_arms(group))
    assert row.missing == 1 and row_cells(row, [])[-1] == "1/1 (1 without a score)"


def test_a_point_has_a_price_only_where_something_was_gained():
    gained, nothing, lost = (finished(name, new, HALF) for name, new in (("a", MORE), ("b", HALF), ("c", LESS)))
    (gain,) = report_sections([gained])[0].gains
    assert gain.cost.points == pytest.approx(100 * (39 - 20) / 40)
    assert gain.cost.per_point(gain.cost.usd) == pytest.approx(1.0 / gain.cost.points)
    assert gain.cost.per_point(gain.cost.seconds) == pytest.approx(60.0 / gain.cost.points)
    for run in (nothing, lost):
        (gain,) = report_sections([run])[0].gains
        assert gain.cost.per_point(gain.cost.usd) is None and gain.cost.per_point(gain.cost.seconds) is None
        assert gain.verdict == ("tie" if run is nothing else "worse")


def test_an_unknown_price_is_not_guessed():
    (section,) = report_sections(
        [finished("a", MORE, HALF), finished("b", MORE, HALF, seed=1, usage={"usd": None, "tokens": 5})]
    )
    ((_, runs, cost),) = section.costs
    assert runs == 2 and cost.usd is None and cost.per_point(cost.usd) is None and cost.tokens == 1005


def test_a_metric_that_is_no_mean_is_not_tested():
    first, best = (Score(value, (value, value), 40) for value in (0.6, 0.9))
    run = finished(
        "auc", MORE, HALF, tests={n: FinalTestResult(n, score, {}, []) for n, score in ((1, first), (2, best))}
    )
    (gain,) = report_sections([run])[0].gains
    assert (gain.p_value, gain.won, gain.verdict) == (None, None, "not tested")
    assert gain.cost.points == pytest.approx(30.0)


def test_a_run_with_a_trainer_that_never_trained_is_no_arm_of_sia_wh():
    idle = finished("idle", MORE, mode="SIA-H", trainer="grpo", seed=1)
    (group,) = group_runs([*both(0, HALF, MORE), idle])
    result = next(each for each in contrast_arms(group) if each.new.trained)
    assert [pair.new.name for pair in result.pairs] == ["wh0"] and result.old.runs[0].name == "h0"
    rows = [row_cells(row, []) for row in paper_rows(group, contrast_arms(group))]
    assert [cells[2:4] for cells in rows] == [["50.0", "97.5"], ["97.5", "–"]]
    assert "trainer=grpo, never trained" in rows[1][0]


def test_a_run_that_called_no_model_stands_in_a_row_of_its_own():
    script = finished("script", MORE, mode="SIA-H, no model", trainer="grpo", seed=0)
    object.__setattr__(script.arm, "config", script.arm.config | {"target_agent": "script"})
    groups = group_runs([*both(0, HALF, MORE), script])
    assert [group.label for group in groups] == ["t", "t (no model)"]
    (row,) = paper_rows(groups[1], contrast_arms(groups[1]))
    assert row_cells(row, [])[2:4] == ["97.5", "–"]


def test_arms_of_a_swept_key_are_compared_though_none_trained():
    runs = []
    for rule, answers in (("ladder", HALF), ("mcnemar", MORE)):
        run = finished(rule, answers, swept=("search.accept.rule",))
        run.config["search"] = {"accept": {"rule": rule}}
        runs.append(run)
    result = contrast(runs)
    assert (result.old.variant, result.new.variant) == (("search.accept.rule=ladder",), ("search.accept.rule=mcnemar",))
    assert result.pairs[0].won == 20 and result.verdict == "SIA-H · search.accept.rule=mcnemar better, one seed"
    (group,) = group_runs(runs)
    rows = [row_cells(row, []) for row in paper_rows(group, [result])]
    assert [cells[2:4] for cells in rows] == [["50.0", "–"], ["97.5", "–"]]


def test_two_trainers_without_sia_h_are_compared_with_each_other():
    result = contrast([finished(name, MORE, mode="SIA-W+H", trainer=name) for name in ("grpo", "ppo")])
    assert (result.old.trainer, result.new.trainer, result.is_weights_gain) == ("grpo", "ppo", False)


def test_a_run_that_a_person_directed_is_an_arm_of_its_own_and_nothing_is_claimed_of_it():
    steered = (Direction(2, "look at the dates"),)
    runs = [*both(0, HALF, MORE), finished("d0", MORE, mode="SIA-W+H", trainer="grpo", directions=steered)]
    (group,) = group_runs(runs)
    assert [side.directed for side in group.sides] == [False, False, True]
    fair, other = contrast_arms(group)
    assert fair.verdict == "SIA-W+H · grpo better, one seed"
    assert (other.verdict, other.pairs[0].verdict, other.new.runs[0].name) == (UNFAIR, UNFAIR, "d0")
    (section,) = report_sections(runs)
    assert [DIRECTED in gain.verdict for gain in section.gains] == [False, False, True]


def test_two_directed_arms_are_no_fair_pair_either():
    steered = (Direction(2, "look at the dates"),)
    (with_weights,) = both(0, HALF, MORE, directions=steered)[1:]
    assert contrast([finished("h0", HALF, directions=steered), with_weights]).verdict == UNFAIR


def test_a_control_arm_is_a_row_of_its_own_and_a_sentence_says_which_gain_survives_it():
    votes = [finished(f"v{seed}", HALF, seed=seed, mode="control-votes") for seed in (0, 1, 2)]
    same = [finished(f"r{seed}", MORE, seed=seed, mode="control-random") for seed in (0, 1, 2)]
    runs = [run for seed in (0, 1, 2) for run in both(seed, HALF, MORE)]
    (section,) = report_sections([*votes, *runs, *same])
    assert [side.label for side in section.group.sides[:2]] == ["SIA-H", "SIA-W+H · grpo"]
    h, wh = section.survival
    assert h.endswith("its gain survives none of them.") and "control-random: control-random better" in h
    assert wh.endswith("its gain survives control-votes.") and "control-random: tie" in wh
    table = paper_rows(section.group, section.contrasts)
    assert "Control" in column_heads(table)
    controls = [row for row in table if row.control]
    assert len(table) == 3 and [row_cells(row, column_heads(table))[2] for row in controls] == [
        "50.0 ± 0.0",
        "97.5 ± 0.0",
    ]
    assert "SIA-W+H · grpo: SIA-W+H · grpo better" in controls[0].verdict


def test_control_arms_alone_are_compared_with_one_another():
    runs = [finished("v", HALF, mode="control-votes"), finished("r", MORE, mode="control-random")]
    assert contrast(runs).new.label == "control-random" and report_sections(runs)[0].survival == []
