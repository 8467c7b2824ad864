"""The Pareto front of dev questions: who survives, who is drawn, and which two are merged."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sia_runner.selection.parents import better_groups, draw_parents, front_weights, group_means, pareto_front

SPECIALISTS = {
    1: {"a": 0.0, "b": 0.0, "c": 0.0},
    2: {"a": 1.0, "b": 0.0, "c": 0.0},
    3: {"a": 0.0, "b": 1.0, "c": 1.0},
    4: {"a": 0.0, "b": 1.0, "c": 0.0},
}

values = st.integers(0, 3).map(float)
candidates = st.integers(1, 6).flatmap(
    lambda groups: st.dictionaries(
        st.integers(1, 20), st.fixed_dictionaries({f"g{k}": values for k in range(groups)}), min_size=1, max_size=8
    )
)


def test_specialists_survive_and_those_who_add_nothing_do_not():
    assert pareto_front(SPECIALISTS, True) == {2: {"a"}, 3: {"b", "c"}}


@given(candidates, st.booleans())
def test_on_every_group_a_survivor_is_as_good_as_the_best_and_each_survivor_is_needed(of, better):
    front, pick = pareto_front(of, better), max if better else min
    groups = next(iter(of.values()))
    for group in groups:
        best = pick(values[group] for values in of.values())
        assert any(of[n][group] == best for n in front)
        assert all((group in front[n]) == (of[n][group] == best) for n in front)
    for n in front:
        others = {group for other in front if other != n for group in front[other]}
        assert not front[n] <= others


@given(candidates)
def test_lower_is_better_is_the_mirror(of):
    mirrored = {n: {group: -value for group, value in values.items()} for n, values in of.items()}
    assert pareto_front(mirrored, False) == pareto_front(of, True)


@given(candidates)
def test_the_weights_share_each_group_among_those_that_are_best_on_it(of):
    front = pareto_front(of, True)
    assert abs(sum(front_weights(front).values()) - len(next(iter(of.values())))) < 1e-9


@given(candidates, st.integers(0, 99))
def test_a_partner_is_better_than_the_parent_on_some_group(of, seed):
    parent, partner = draw_parents(of, 1.0, True, Random(seed))
    assert parent in pareto_front(of, True)
    assert partner is None or better_groups(of[partner], of[parent], True)


def test_merges_are_as_frequent_as_configured_and_impossible_with_one_survivor():
    partners = [draw_parents(SPECIALISTS, 0.25, True, Random(seed))[1] for seed in range(2000)]
    assert 0.22 < sum(partner is not None for partner in partners) / 2000 < 0.28
    assert all(draw_parents({1: {"a": 1.0}}, 1.0, True, Random(seed)) == (1, None) for seed in range(20))
    drawn = Counter(draw_parents(SPECIALISTS, 0.0, True, Random(seed))[0] for seed in range(3000))
    assert 0.63 < drawn[3] / 3000 < 0.70  # best on two of three groups


def test_groups_are_dealt_evenly_the_same_for_every_candidate_and_another_way_for_another_seed():
    one = {f"q{k}": float(k) for k in range(10)}
    means = group_means(one, 3, seed=1)
    assert len(means) == 3 and abs(sum(means.values()) - 13.5) < 6
    shuffled = dict(reversed(list(one.items())))
    assert group_means(shuffled, 3, seed=1) == means != group_means(one, 3, seed=2)
    assert group_means(one, None, seed=1) == one
    assert len(group_means(one, 99, seed=1)) == 10
