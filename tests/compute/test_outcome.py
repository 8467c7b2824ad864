"""A stage's outcome is whole or not there, and an exception arrives as it was raised."""

import pytest

from sia_runner.compute.task import (
    RETURNED,
    StageOutcome,
    error_outcome,
    outcome_file,
    read_outcome,
    write_outcome,
)
from sia_runner.wire.grants import BudgetSpent


class Lock(Exception):
    """Cannot be pickled."""

    def __init__(self):
        super().__init__(lambda: None)


def sent(folder, error):
    """Through the file."""
    try:
        raise error
    except BaseException as caught:
        write_outcome(folder, error_outcome(caught))
    return read_outcome(folder)


def test_a_result_comes_back(tmp_path):
    assert read_outcome(tmp_path) is None
    write_outcome(tmp_path, StageOutcome(RETURNED, {"fault": ""}))
    assert read_outcome(tmp_path).result() == {"fault": ""}
    outcome_file(tmp_path).unlink()
    assert read_outcome(tmp_path) is None


def test_an_exception_is_raised_as_itself_with_all_it_carries(tmp_path):
    with pytest.raises(BudgetSpent, match="no more") as caught:
        sent(tmp_path, BudgetSpent("generation", "no more")).result()
    assert caught.value.scope == "generation"
    assert "test_outcome.py" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "full", "/x"), FileNotFoundError(2, "no", "y")])
def test_those_of_python_too(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        sent(tmp_path, error).result()
    assert (str(caught.value), caught.value.args) == (str(error), error.args)
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)


def test_of_one_that_cannot_travel_the_text_arrives(tmp_path):
    with pytest.raises(RuntimeError, match="Lock"):
        sent(tmp_path, Lock()).result()


def test_nothing_but_the_outcome_is_left_in_the_folder(tmp_path):
    write_outcome(tmp_path, StageOutcome(RETURNED, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.pkl"]


def test_one_of_an_earlier_version_whose_classes_moved_is_none(tmp_path):
    for gone in (b"csia_runner.compute.outcome\nOutcome\n.", b"csia_runner.compute.task\nOutcome\n."):
        outcome_file(tmp_path).write_bytes(gone)
        assert read_outcome(tmp_path) is None
