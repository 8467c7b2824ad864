"""A person's notes: from the file that waits to the journal, once each, bounded and without control characters."""

import os

import pytest

from sia_runner.store.directions import (
    MAX_CHARACTERS,
    MAX_WAITING,
    count_waiting,
    journal_directions,
    leave_direction,
    read_directions,
)
from sia_runner.store.journal import Journal, JournalReader
from sia_runner.store.run_directory import RunDir, RunDirectoryError


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


@pytest.fixture
def journal(run):
    opened = Journal(run.journal)
    yield opened
    opened.close()


def test_notes_are_journaled_in_their_order_and_every_later_generation_has_them(run, journal):
    leave_direction(run, "look at the date formats")
    leave_direction(run, "and at the currencies")
    assert [note.text for note in journal_directions(run, journal, 2)] == [
        "look at the date formats",
        "and at the currencies",
    ]
    leave_direction(run, "enough of the dates")
    journal_directions(run, journal, 4)
    reader = JournalReader(run.journal)
    assert [(note.n, note.text[:4]) for note in read_directions(reader)] == [(2, "look"), (2, "and "), (4, "enou")]
    assert len(read_directions(reader, 1)) == 0 and len(read_directions(reader, 3)) == 2
    assert count_waiting(run.path) == 0 and all(note.at for note in read_directions(reader))


def test_control_characters_and_lines_are_removed(run, journal):
    leave_direction(run, "look\x1b[31m at\nthe \u202edates\x00")
    (note,) = journal_directions(run, journal, 2)
    assert note.text == "look[31m at the dates"


@pytest.mark.parametrize("text", ["", " \n\x1b", "x" * (MAX_CHARACTERS + 1)])
def test_an_empty_or_a_long_note_is_refused(run, text):
    with pytest.raises(RunDirectoryError, match="empty|at most 1,000"):
        leave_direction(run, text)
    assert not run.directions.exists()


def test_only_so_many_may_wait(run):
    for k in range(MAX_WAITING):
        leave_direction(run, f"note {k}")
    with pytest.raises(RunDirectoryError, match="wait for a proposal"):
        leave_direction(run, "one more")


def test_a_note_whose_file_a_kill_left_behind_counts_once(run, journal):
    leave_direction(run, "once")
    (file,) = run.directions.iterdir()
    kept = file.read_bytes()
    journal_directions(run, journal, 2)
    file.write_bytes(kept)
    assert journal_directions(run, journal, 3) == []
    assert [note.n for note in read_directions(journal)] == [2] and not file.exists()


def test_what_others_put_into_the_folder_is_no_note(run, journal, tmp_path):
    run.directions.mkdir()
    (run.directions / "a.json").write_text("no JSON")
    (run.directions / "b.json").write_text('{"text": 7}')
    (run.directions / ".c.json.tmp").write_text('{"text": "half of"}')
    (tmp_path / "outside.json").write_text('{"text": "from outside"}')
    os.symlink(tmp_path / "outside.json", run.directions / "d.json")
    (run.directions / "e.json").write_text(f'{{"text": "{"y" * 5000}"}}')
    (note,) = journal_directions(run, journal, 2)
    assert len(note.text) <= MAX_CHARACTERS and note.text.startswith("yyy")
