"""Splits: nothing in two of them, nothing lost, nothing that belongs together cut apart."""

import os
import subprocess
import sys
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.tasks.splits import cut_shares, deal_folds, shuffled, spread_over_strata, stratified_sample, tied_blocks

LABELS = st.lists(st.sampled_from("aaaabbbcde"), min_size=1, max_size=120)
SHARES = {"test": 0.2, "val": 0.2, "dev": 0.1}


def as_units(labels):
    return {f"u{i}": label for i, label in enumerate(labels)}


def singles(units):
    return [[unit] for unit in units]


@given(LABELS, st.integers(0, 3), st.integers(0, 2))
def test_every_unit_is_in_exactly_one_split(labels, seed, keep):
    units = as_units(labels)
    parts, rest = cut_shares(singles(units), units.__getitem__, SHARES, seed=seed, keep=keep)
    assert Counter(sum(parts.values(), rest)) == Counter(list(units))


@given(LABELS, st.integers(0, 3))
def test_a_rare_answer_goes_to_train_first(labels, seed):
    units = as_units(labels)
    _, rest = cut_shares(singles(units), units.__getitem__, SHARES, seed=seed, keep=2)
    kept = Counter(units[unit] for unit in rest)
    assert all(kept[label] >= min(2, count) for label, count in Counter(labels).items())


def test_shares_are_kept_within_one_unit_per_stratum_and_in_all():
    units = as_units("a" * 333 + "b" * 101 + "c" * 40 + "d" * 26)
    parts, _ = cut_shares(singles(units), units.__getitem__, SHARES, seed=0, keep=2)
    for name, share in SHARES.items():
        assert abs(len(parts[name]) - share * 500) <= 1
        for label, count in Counter(units.values()).items():
            assert abs(sum(units[u] == label for u in parts[name]) - share * count) <= 1.5


def test_many_tiny_strata_do_not_take_their_share_from_a_big_one():
    units = as_units([f"rare {i}" for i in range(300)] + ["big"] * 50)
    parts, _ = cut_shares(singles(units), units.__getitem__, SHARES, seed=0, keep=2)
    assert sum(map(len, parts.values())) <= 0.5 * 50 + 3


def test_units_tied_in_several_steps_are_one_block():
    group = {"a": "1", "b": "1", "c": "2", "d": "3"}
    text = {"a": "x", "b": "y", "c": "y", "d": "z"}
    made = tied_blocks(list(group), [group.get, text.get])
    assert sorted(map(sorted, made)) == [["a", "b", "c"], ["d"]]


def test_none_ties_nothing():
    assert len(tied_blocks(["a", "b"], [lambda _: None])) == 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 15)), min_size=5, max_size=80), st.integers(0, 3))
def test_a_block_is_never_cut(rows, seed):
    units = {f"u{i}": label for i, (label, _) in enumerate(rows)}
    group = {f"u{i}": str(number) for i, (_, number) in enumerate(rows)}
    made = tied_blocks(list(units), [group.get])
    parts, rest = cut_shares(made, units.__getitem__, SHARES, seed=seed)
    places = [{group[u] for u in part} for part in [*parts.values(), rest]]
    dealt = [{group[u] for u in fold} for fold in deal_folds(made, units.__getitem__, 3, seed=seed)]
    for sides in (places, dealt):
        assert sum(map(len, sides)) == len(set(group.values()))


@given(LABELS, st.integers(2, 6), st.integers(0, 3))
def test_folds_hold_everything_once_and_are_even(labels, count, seed):
    units = as_units(labels)
    dealt = deal_folds(singles(units), units.__getitem__, count, seed=seed)
    assert Counter(chain(*dealt)) == Counter(list(units))
    for label in set(labels):
        sizes = [sum(units[u] == label for u in fold) for fold in dealt]
        assert max(sizes) - min(sizes) <= 1
    assert max(map(len, dealt)) - min(map(len, dealt)) <= len(set(labels))


@given(LABELS, st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 3))
def test_a_smaller_sample_is_part_of_a_larger_one_and_knows_every_class(labels, one, other, seed):
    units = as_units(labels)
    small, large = (stratified_sample(list(units), units.__getitem__, f, seed=seed) for f in sorted((one, other)))
    assert set(small) <= set(large)
    assert {units[u] for u in small} == set(labels)
    assert large == [u for u in units if u in set(large)]  # the order of the data


@given(LABELS, st.integers(1, 60), st.integers(0, 3))
def test_the_gate_gives_as_many_classes_as_possible_two_rows(labels, most, seed):
    units = as_units(labels)
    chosen = spread_over_strata(list(units), units.__getitem__, most, seed=seed)
    assert len(chosen) == min(most, len(units))
    counts, available = Counter(units[u] for u in chosen), Counter(labels)
    if any(count > 2 for count in counts.values()):  # a third row only when every class has what it can of two
        assert all(counts[label] >= min(2, available[label]) for label in available)
    assert sum(counts[label] == 1 < available[label] for label in available) <= 1  # one class may miss its second row


def test_another_seed_is_another_order_and_the_same_seed_the_same():
    units = list(as_units("a" * 50))
    assert shuffled(units, 0) == shuffled(units, 0) != shuffled(units, 1)
    assert sorted(shuffled(units, 0)) == sorted(units)


@pytest.mark.parametrize("hash_seed", ["0", "1", "77"])
def test_splits_are_the_same_in_every_process(hash_seed):
    program = (
        "from sia_runner.tasks.splits import *;"
        "u={f'u{i}': 'abc'[i%3] for i in range(60)};"
        "print(cut_shares([[x] for x in u], u.__getitem__, {'val': .3, 'dev': .1}, seed=4))"
    )
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True, timeout=60
    )
    units = {f"u{i}": "abc"[i % 3] for i in range(60)}
    assert done.stdout.strip() == str(cut_shares(singles(units), units.__getitem__, {"val": 0.3, "dev": 0.1}, seed=4))
