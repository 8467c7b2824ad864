"""Medals as MLE-bench counts them."""

import random

import pytest

from sia_runner.tasks.mlebench_task import Leaderboard, read_leaderboard


def board(teams, lower=False):
    """Place k has score k, or teams + 1 - k where higher is better."""
    return Leaderboard([float(k) if lower else float(teams + 1 - k) for k in range(1, teams + 1)])


@pytest.mark.parametrize(
    ("teams", "places"),
    [
        (1, (1, 1, 1)),
        (9, (1, 1, 3)),
        (99, (9, 19, 39)),
        (100, (10, 20, 40)),
        (249, (10, 49, 99)),
        (250, (10, 50, 100)),
        (999, (11, 50, 100)),
        (1000, (12, 50, 100)),
        (2000, (14, 100, 200)),
    ],
)
@pytest.mark.parametrize("lower", [False, True])
def test_thresholds_are_those_of_the_last_place_that_wins(teams, places, lower):
    if teams == 1 and lower:
        pytest.skip("one team says nothing about a direction")
    one = board(teams, lower)
    assert tuple(one.thresholds[medal] for medal in ("gold", "silver", "bronze")) == tuple(
        one.scores[place - 1] for place in places
    )


def test_the_best_medal_that_a_score_reaches_is_won():
    one = board(1000)
    won = {score: one.compare(score)["medal"] for score in (989.0, 988.9, 951.0, 950.9, 901.0, 900.9)}
    assert list(won.values()) == ["gold", "silver", "silver", "bronze", "bronze", None]


def test_lower_is_better_where_the_leaderboard_begins_with_the_lowest():
    one = board(1000, lower=True)
    assert [one.compare(score)["medal"] for score in (12.0, 12.1, 101.0)] == ["gold", "silver", None]


def test_above_the_median_means_better_than_it():
    one = Leaderboard([0.9, 0.8, 0.7, 0.6])
    assert one.thresholds["median"] == pytest.approx(0.75)
    assert [one.compare(score)["above_median"] for score in (0.76, 0.75, 0.74)] == [True, False, False]


def test_a_leaderboard_is_read_from_the_first_file_that_holds_scores(tmp_path):
    pointer, real = tmp_path / "pointer.csv", tmp_path / "real.csv"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:e071\nsize 125841\n")
    real.write_text("teamId,submissionDate,score\n1,2022-04-01,0.82\n2,2022-04-02,0.81\n3,2022-04-03,\n")
    assert read_leaderboard([tmp_path / "none.csv", pointer, real]) == Leaderboard([0.82, 0.81])
    assert read_leaderboard([pointer]) is None


def test_the_thresholds_are_those_of_the_package():
    grading = pytest.importorskip(
        "mlebench.grade_helpers",
        reason="NOT COMPARED: needs mlebench (pip install git+https://github.com/openai/mle-bench)",
    )
    import pandas as pd

    rank = grading.Grader.rank_score
    theirs = grading.Grader("accuracy", "sklearn.metrics:accuracy_score")
    for teams in (1, 2, 5, 50, 99, 100, 180, 249, 250, 400, 999, 1000, 1234, 5000):
        scores = sorted((random.Random(teams).random() for _ in range(teams)), reverse=teams % 2 == 0)
        ours = Leaderboard(scores)
        for score in [*scores[:: max(1, teams // 20)], 0.5]:
            said, found = rank(theirs, score, pd.DataFrame({"score": scores})), ours.compare(score)
            won = next((medal for medal in ("gold", "silver", "bronze") if said[f"{medal}_medal"]), None)
            assert (found["medal"], found["above_median"]) == (won, said["above_median"])
            assert found["thresholds"] == {name: said[f"{name}_threshold"] for name in ours.thresholds}
