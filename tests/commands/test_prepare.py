"""``python -m sia_runner prepare``: data ahead of a run, with nothing else at hand."""

import pytest

from sia_runner.__main__ import main


def test_data_is_prepared_without_key_provider_or_sandbox(capsys):
    assert main(["prepare", "task=smoke", "+task.needs_model=true"]) == 0
    assert "task smoke is prepared in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["task=smok"], "refused: task=smok: no such choice; did you mean 'smoke'?"),
        (["task=smoke", "task.splits.val=2"], "refused: task.splits.val=2: input should be less than 1"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(capsys, args, line):
    assert main(["prepare", *args]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith(line)
