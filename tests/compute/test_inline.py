"""Stages in this process, trials by threads."""

import threading
import time

import pytest

from sia_runner.compute.inline import Inline
from tests.compute.steps import step


def test_results_come_in_the_order_of_the_items_however_long_each_takes():
    def work(item):
        time.sleep(0.02 * (4 - item))
        return item * item

    assert Inline(workers=4).map(work, range(4)) == [0, 1, 4, 9]


def test_no_more_than_the_configured_number_works_at_once():
    lock, running, peak = threading.Lock(), [0], [0]

    def work(_):
        with lock:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    Inline(workers=2).map(work, range(8))
    assert peak == [2]


def test_an_error_of_one_item_is_the_error_of_the_whole():
    with pytest.raises(ZeroDivisionError):
        Inline(workers=2).map(lambda item: 1 / item, [1, 0, 1])


def test_a_stage_gets_its_arguments(tmp_path):
    assert Inline(workers=1).call(step(tmp_path), lambda a, b: (a, b), 1, 2) == (1, 2)
