"""The wall time of a journal: candidates in parallel count once."""

from datetime import UTC, datetime

import pytest

from sia_runner.store.journal import Journal, minutes_spent


def journal(path, *steps):
    """Return a journal of `steps`, each with name, start and end in minutes."""
    journal = Journal(path / "journal.jsonl")
    for name, start, end in steps:
        at = datetime.fromtimestamp(60 * end, UTC).isoformat(timespec="milliseconds")
        journal.entries.append({"event": "done", "step": name, "at": at, "seconds": 60.0 * (end - start), "result": {}})
    return journal


def test_one_after_the_other_adds_up_over_pauses(tmp_path):
    done = journal(tmp_path, ("gen_1/run", 1, 3), ("gen_2/run", 10, 11), ("test/gen_1", 11, 15))
    assert minutes_spent(done) == pytest.approx(3)


def test_at_the_same_time_counts_once_for_the_run_and_in_full_for_each_generation(tmp_path):
    done = journal(tmp_path, ("gen_3/run", 3, 4), ("gen_1/run", 1, 5), ("gen_2/run", 2, 7), ("gen_2/verify", 7, 8))
    assert minutes_spent(done) == pytest.approx(7)
    assert [minutes_spent(done, n) for n in (1, 2, 3)] == pytest.approx([4, 6, 1])
