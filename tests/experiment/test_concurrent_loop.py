"""Candidates under way at once: for any durations the same verdicts, and never more than are allowed."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_runner.experiment.concurrent_loop import CandidatePool
from sia_runner.selection.parents import verdicts_available


def propose(n, verdicts):
    """Any function of what a proposal may know, so that another history gives another candidate."""
    return hash((n, *verdicts)) % 1000


def judge(candidate, verdicts):
    """Against the best so far, as the loop does."""
    return candidate, candidate > max((value for value, accepted in verdicts if accepted), default=-1)


def one_after_the_other(last, in_flight):
    verdicts = []
    for n in range(1, last + 1):
        verdicts.append(judge(propose(n, tuple(verdicts[: verdicts_available(n, in_flight)])), verdicts))
    return verdicts


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_verdicts_do_not_depend_on_what_takes_how_long(in_flight, durations):
    verdicts, lock, under_way, highest = [], threading.Lock(), set(), [0]

    def work(n):
        with lock:
            under_way.add(n)
            highest[0] = max(highest[0], len(under_way))
        candidate = propose(n, tuple(verdicts[: verdicts_available(n, in_flight)]))
        time.sleep(durations[n - 1] / 500)
        with lock:
            under_way.remove(n)
        return candidate

    with CandidatePool(work, len(durations), in_flight) as flight:
        for n in range(1, len(durations) + 1):
            verdicts.append(judge(flight.result_of(n), verdicts))
    assert verdicts == one_after_the_other(len(durations), in_flight)
    assert highest[0] <= in_flight


@given(st.integers(1, 200), st.integers(1, 20))
def test_a_proposal_lacks_the_verdicts_on_those_under_way_and_no_others(n, in_flight):
    assert n - in_flight <= verdicts_available(n, in_flight) < n
    assert verdicts_available(n, 1) == n - 1
    assert verdicts_available(n + 1, in_flight) >= verdicts_available(n, in_flight)


def test_as_many_are_under_way_as_are_allowed_while_the_slowest_is_waited_for():
    started, go_on = [], threading.Event()

    def work(n):
        started.append(n)
        assert n == 1 or go_on.wait(10)
        return n

    with CandidatePool(work, 20, 4) as flight:
        assert flight.result_of(1) == 1
        waiting = threading.Thread(target=flight.result_of, args=(2,))
        waiting.start()
        until(lambda: len(started) == 5)
        time.sleep(0.05)
        assert sorted(started) == [1, 2, 3, 4, 5]
        go_on.set()
        waiting.join()


def test_after_close_nothing_begins_and_what_is_under_way_lands():
    with CandidatePool(lambda n: n, 20, 3) as flight:
        assert [flight.result_of(1), flight.result_of(2)] == [1, 2]
        flight.closed = True
        assert [flight.result_of(n) for n in (3, 4, 5)] == [3, 4, None]


def test_an_error_is_raised_where_its_candidate_lands_and_the_others_are_waited_for():
    finished = []

    def work(n):
        if n == 3:
            raise OSError("the disk is full")
        time.sleep(0.05 * (n > 1))
        finished.append(n)
        return n

    with pytest.raises(OSError, match="disk is full"), CandidatePool(work, 9, 3) as flight:
        for n in range(1, 10):
            flight.result_of(n)
    assert sorted(finished) == [1, 2, 4, 5]


def test_an_interrupt_waits_for_nobody():
    go_on = threading.Event()
    began = time.monotonic()

    def work(n):
        if n == 2:
            raise KeyboardInterrupt
        return n == 1 or go_on.wait(30)

    with pytest.raises(KeyboardInterrupt), CandidatePool(work, 9, 3) as flight:
        flight.result_of(1)
        flight.result_of(2)
    assert flight.is_over and time.monotonic() - began < 5
    go_on.set()


def until(happened, timeout=10.0):
    end = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)
