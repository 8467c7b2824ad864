"""Any beginning of the list stands for the whole of it."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sia_runner.tasks.splits import confusion_strata, stratified_order

ITEMS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers()), max_size=60)


@given(ITEMS)
def test_every_item_is_there_once_and_a_stratum_keeps_its_order(items):
    ordered = stratified_order(items, lambda item: item[0])
    assert Counter(ordered) == Counter(items)
    for name in "abcde":
        assert [i for i in ordered if i[0] == name] == [i for i in items if i[0] == name]


def test_the_largest_stratum_comes_first_and_a_rare_one_early():
    items = ["common"] * 90 + ["some"] * 9 + ["rare"]
    ordered = stratified_order(items, str)
    assert ordered[0] == "common"
    assert ordered.index("some") < 10 and ordered.index("rare") < 10
    assert Counter(ordered[:20])["common"] > Counter(ordered[:20])["some"] > Counter(ordered[:20])["rare"] == 1


@given(ITEMS, st.integers(1, 60))
def test_in_any_beginning_a_larger_stratum_has_at_least_as_many_as_a_smaller_one(items, length):
    total, part = Counter(k for k, _ in items), Counter(k for k, _ in stratified_order(items, lambda i: i[0])[:length])
    for larger in total:
        for smaller in total:
            if total[larger] > total[smaller] and part[smaller] < total[smaller]:
                assert part[larger] >= part[smaller]


def test_confusions_that_repeat_are_strata_and_single_ones_count_by_kind():
    def failure(gold, prediction, kind="wrong"):
        return {"kind": kind, "gold": gold, "prediction": prediction}

    failures = [failure("a", "b"), failure("a", "b"), failure("a", "c"), failure("d", "e"), failure("a", "", "timeout")]
    stratum = confusion_strata(failures)
    assert stratum(failures[0]) == stratum(failures[1]) == ("wrong", "a", "b")
    assert stratum(failures[2]) == stratum(failures[3]) == "wrong"
    assert stratum(failures[4]) == "timeout"
