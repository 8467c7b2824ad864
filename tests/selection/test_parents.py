"""Which candidate is extended, and when a run stops: for any history, whatever the metric."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.config.experiment import SearchConfig
from sia_runner.records import Lever, PastGeneration, Score, Trial
from sia_runner.selection.parents import (
    ParentSearch,
    archive_weights,
    best_trial,
    parents_by_generation,
    plateau_reason,
)


def search(name, **changes):
    return SearchConfig.model_validate({"name": name, "accept": {"rule": "ladder"}, **changes})


def past(n, value, status="rejected", parent=None, half=0.1):
    val = None if value is None else Score(value, (value - half, value + half), 50)
    return PastGeneration(n, Lever.HARNESS, f"candidate {n}", status, "why", val, parent=parent)


def parent(name, history, incumbent, *, seed=0, n=9, sibling=0, better=True, **changes):
    dev = {p.n: {f"q{k}": float((p.n * 7 + k) % 3 == 0) for k in range(12)} for p in history}
    return ParentSearch(search(name, **changes), seed, better, dev.__getitem__).choose(n, history, incumbent, sibling)


def extended(name, history, incumbent, **how):
    return parent(name, history, incumbent, **how).parent


@st.composite
def histories(draw):
    """Each candidate extends an earlier scored one, fails or is scored."""
    history, scored = [], []
    for n in range(1, draw(st.integers(1, 12)) + 1):
        value = draw(st.none() | st.integers(-100, 100).map(float))
        origin = draw(st.sampled_from(scored)) if scored else None
        status = "failed" if value is None else "rejected" if scored and draw(st.booleans()) else "accepted"
        history.append(past(n, value, status, origin, half=draw(st.integers(0, 20)) / 4))
        if value is not None:
            scored.append(n)
    return history


def incumbent_of(history):
    return next((p.n for p in reversed(history) if p.status == "accepted"), None)


@given(
    histories(), st.sampled_from(["greedy", "last", "archive", "pareto", "islands"]), st.integers(0, 5), st.booleans()
)
def test_a_parent_is_a_scored_candidate_and_there_is_one_as_soon_as_one_was_scored(history, name, seed, better):
    found = extended(name, history, incumbent_of(history), seed=seed, better=better)
    scored = {p.n for p in history if p.val}
    assert found in scored if scored else found is None


@given(histories())
def test_greedy_extends_the_incumbent_and_last_the_newest_scored(history):
    assert extended("greedy", history, incumbent_of(history)) == incumbent_of(history)
    assert extended("last", history, incumbent_of(history)) == max((p.n for p in history if p.val), default=None)


@given(
    histories(),
    st.sampled_from(["archive", "pareto", "islands"]),
    st.integers(0, 99),
    st.integers(1, 99),
    st.integers(0, 9),
)
def test_a_draw_is_the_same_again(history, name, seed, n, sibling):
    draws = {parent(name, history, None, seed=seed, n=n, sibling=sibling) for _ in range(3)}
    assert len(draws) == 1


def test_seed_generation_and_sibling_each_change_the_draw():
    history = [past(n, 0.5, "accepted" if n == 1 else "rejected", 1) for n in range(1, 9)]
    for varied in ("seed", "n", "sibling"):
        for name in ("archive", "pareto"):
            draws = {extended(name, history, 1, **{varied: k}, dev_groups=None) for k in range(30)}
            assert len(draws) > (3 if name == "archive" else 1)


@given(histories(), st.floats(0, 3), st.booleans())
def test_a_better_score_never_weighs_less_among_candidates_extended_equally_often(history, novelty, better):
    found = archive_weights(history, novelty, better)
    children = Counter(parents_by_generation(history).values())
    values = {p.n: p.val.value * (1 if better else -1) for p in history if p.val}
    for one in found:
        for other in found:
            if children[one] == children[other] and values[one] >= values[other]:
                assert found[one] >= found[other]


@given(histories(), st.floats(0.1, 3))
def test_an_extended_candidate_weighs_less_than_an_equal_one_that_was_not(history, novelty):
    scored = [p for p in history if p.val]
    if not scored:
        return
    n = len(history) + 1
    child = past(n, None, "failed", scored[0].n)
    before, after = archive_weights(history, novelty, True), archive_weights([*history, child], novelty, True)
    assert after[scored[0].n] < before[scored[0].n]
    assert all(after[p.n] == before[p.n] for p in scored[1:])


@given(histories(), st.floats(0, 2))
def test_without_weight_on_novelty_children_do_not_matter(history, novelty):
    alone = archive_weights(history, 0.0, True)
    children = Counter(parents_by_generation(history).values())
    for n, weight in archive_weights(history, novelty, True).items():
        assert weight == pytest.approx(alone[n] / (1 + children[n]) ** novelty)


@given(histories(), st.sampled_from([0.25, 4.0, 1000.0]), st.integers(-50, 50))
def test_the_unit_of_the_metric_does_not_matter(history, factor, offset):
    def moved(p):
        if p.val is None:
            return p
        low, high = p.val.ci95
        score = Score(p.val.value * factor + offset, (low * factor + offset, high * factor + offset), p.val.n)
        return PastGeneration(p.n, p.lever, p.title, p.status, p.reason, score, parent=p.parent)

    assert archive_weights([moved(p) for p in history], 1.0, True) == pytest.approx(archive_weights(history, 1.0, True))


@given(histories())
def test_lower_is_better_is_the_mirror_of_higher_is_better(history):
    def mirrored(p):
        if p.val is None:
            return p
        low, high = p.val.ci95
        return PastGeneration(
            p.n, p.lever, p.title, p.status, p.reason, Score(-p.val.value, (-high, -low), 50), parent=p.parent
        )

    assert archive_weights([mirrored(p) for p in history], 1.0, False) == pytest.approx(
        archive_weights(history, 1.0, True)
    )


def test_scores_within_noise_weigh_nearly_the_same_and_clear_ones_do_not():
    noisy = archive_weights([past(1, 0.50, half=0.2), past(2, 0.52, half=0.2)], 0.0, True)
    clear = archive_weights([past(1, 0.50, half=0.001), past(2, 0.90, half=0.001)], 0.0, True)
    assert 1 < noisy[2] / noisy[1] < 1.2 and clear[2] / clear[1] > 5


def test_draws_follow_the_weights():
    history = [
        past(1, 0.2, "accepted"),
        past(2, 0.6, "accepted", 1),
        past(3, 0.7, "accepted", 2),
        past(4, 0.1, parent=3),
    ]
    chances = archive_weights(history, 1.0, True)
    drawn = Counter(extended("archive", history, 3, seed=seed) for seed in range(3000))
    for n, weight in chances.items():
        assert drawn[n] / 3000 == pytest.approx(weight / sum(chances.values()), abs=0.03)


def test_a_candidate_whose_parent_was_not_noted_extended_the_incumbent_of_its_time():
    history = [past(1, 0.1, "accepted"), past(2, 0.3, "accepted"), past(3, 0.2), past(4, 0.2, parent=1), past(5, None)]
    assert parents_by_generation(history) == {1: None, 2: 1, 3: 2, 4: 1, 5: 2}


@given(histories(), st.integers(1, 6))
def test_a_plateau_is_as_many_generations_in_a_row_without_an_accepted_one(history, patience):
    reason = plateau_reason(search("greedy", patience=patience), history)
    accepted = [p.status == "accepted" for p in history]
    assert bool(reason) == (len(history) >= patience and not any(accepted[-patience:]))
    assert f"last {patience} generations" in reason if reason else True


def test_without_patience_there_is_no_plateau():
    assert plateau_reason(search("greedy"), [past(n, None, "failed") for n in range(1, 100)]) == ""


def test_of_parallel_proposals_the_best_trial_counts_and_a_failed_one_only_where_all_failed():
    def trial(value, failure=""):
        return Trial(value, 10, 1.0, failure)

    assert best_trial({0: trial(0.5), 1: trial(0.7), 2: trial(0.7)}, True) == 1
    assert best_trial({0: trial(0.5), 1: trial(0.7)}, False) == 0
    assert best_trial({0: trial(0.9, "crashed"), 1: trial(0.1)}, True) == 1
    assert best_trial({3: trial(0.0, "crashed"), 4: trial(0.0, "crashed")}, True) == 3


def test_without_dev_questions_pareto_extends_the_incumbent():
    history = [past(1, 0.2, "accepted"), past(2, 0.3, parent=1)]
    chosen = ParentSearch(search("pareto"), 0, True, lambda n: {}).choose(3, history, 1)
    assert (chosen.parent, chosen.partner) == (1, None)
