"""Islands: lineages apart, and the migration of leaders in a ring."""

from hypothesis import given
from hypothesis import strategies as st

from sia_runner.records import Lever, PastGeneration, Score
from sia_runner.selection.parents import island_leader, island_of


def history(*values):
    return [
        PastGeneration(n, Lever.HARNESS, "", "rejected", "", None if v is None else Score(v, (v, v), 9))
        for n, v in enumerate(values, 1)
    ]


def leaders(of, *, islands=2, migrate_every=99, better=True):
    """The leader of each island, in the order of the next generations."""
    following = len(of) + 1
    return {
        island_of(n, islands): island_leader(of, n, islands, migrate_every, better)
        for n in range(following, following + islands)
    }


def test_generations_take_turns_and_each_island_has_its_own_best():
    assert [island_of(n, 3) for n in (2, 3, 4, 5)] == [0, 1, 2, 0]
    of = history(0.1, 0.5, 0.2, 0.4, 0.9)  # 2 and 4 live on the first island, 3 and 5 on the second
    assert leaders(of) == {0: 2, 1: 5}
    assert leaders(of, better=False) == {0: 1, 1: 1}


def test_the_first_candidate_lives_on_all_and_without_a_score_nobody_does():
    assert leaders(history(0.3)) == {0: 1, 1: 1}
    assert leaders(history(None, None)) == {0: None, 1: None}
    assert leaders(history(None, 0.2)) == {0: 2, 1: None}


def test_leaders_migrate_to_the_next_island_after_every_so_many_generations():
    of = history(0.1, 0.5, 0.2, 0.4, 0.3)
    assert leaders(of, migrate_every=4) == {0: 2, 1: 2}
    assert leaders(of[:4], migrate_every=4) == {0: 2, 1: 3}
    assert leaders(history(0.1, 0.5, 0.2, 0.2), islands=3, migrate_every=3) == {0: 2, 1: 2, 2: 3}


@given(st.lists(st.none() | st.integers(0, 5).map(float), min_size=1, max_size=20), st.integers(2, 4))
def test_with_migration_at_every_generation_the_best_reaches_every_island_in_a_round(values, islands):
    of = history(*values, *[0.0] * islands)
    best = max(p.val.value for p in of if p.val)
    assert all(of[leader - 1].val.value == best for leader in leaders(of, islands=islands, migrate_every=1).values())
