"""The journal: append only, hash-chained, and honest about what was done."""

import os
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.store.journal import Journal, JournalError, JournalReader
from sia_runner.store.run_directory import RunDirectoryError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def written(path, steps=3):
    journal = Journal(path)
    for step in range(steps):
        journal.once(f"gen_1/{step}", lambda step=step: {"value": step})
    journal.close()
    return journal


def test_a_step_is_done_once_and_its_result_is_kept_across_processes(path):
    calls = []
    for _ in range(2):
        journal = Journal(path)
        result = journal.once("gen_1/run", lambda: calls.append(1) or {"value": 7})
        journal.close()
        assert result == {"value": 7}
    assert calls == [1]


def test_a_step_that_was_cut_is_done_again(path):
    journal = Journal(path)
    with pytest.raises(ZeroDivisionError):
        journal.once("gen_1/run", lambda: {"value": 1 / 0})
    journal.close()
    again = Journal(path)
    assert again.once("gen_1/run", lambda: {"value": 1}) == {"value": 1}
    assert [entry["event"] for entry in again.entries] == ["start", "start", "done"]


def test_every_prefix_of_a_journal_is_recovered_to_its_last_whole_line(path):
    written(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        journal = Journal(path)
        journal.append("next")
        journal.close()
        assert JournalReader(path).entries[-1]["event"] == "next"
        lines = content[:length].count(b"\n")
        assert [e["seq"] for e in JournalReader(path).entries][:lines] == list(range(1, lines + 1))


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_signal_that_raises_in_the_middle_of_an_append_leaves_the_chain_whole(path, monkeypatch, call):
    journal = Journal(path)
    journal.append("before")
    real = getattr(os, call)

    def interrupted(*arguments):
        real(*arguments)  # Python runs a signal's handler when the system call is over
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append("cut")
    monkeypatch.undo()
    journal.append("after")
    assert [entry["event"] for entry in JournalReader(path).entries] == ["before", "cut", "after"]
    assert JournalReader(path).entries == journal.entries and JournalReader(path).head == journal.head


def test_changing_any_byte_of_any_line_but_the_last_is_found(path):
    written(path)
    content = path.read_bytes()
    last_line = content.rstrip(b"\n").rindex(b"\n") + 1
    for at in range(0, last_line, 3):
        broken = bytearray(content)
        broken[at] ^= 1
        path.write_bytes(bytes(broken))
        with pytest.raises(JournalError):
            JournalReader(path)


def test_a_changed_last_line_is_found_by_the_head_hash(path):
    head = written(path).head
    path.write_bytes(path.read_bytes().replace(b'"value": 2', b'"value": 9'))
    assert JournalReader(path).head != head


def test_a_removed_or_swapped_line_is_named(path):
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(JournalError, match="line 2"):
        JournalReader(path)


@given(st.text() | st.text(alphabet=st.characters(whitelist_categories=("Cs", "Cc"))))
def test_any_text_reads_back_as_it_was(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    journal.append("note", text=text)
    journal.append("after")
    journal.close()
    # a high and a low surrogate side by side are, in JSON, the one character that they encode
    assert JournalReader(path).entries[0]["text"] == text.encode("utf-16", "surrogatepass").decode(
        "utf-16", "surrogatepass"
    )


def test_numbers_that_json_does_not_have_are_refused_before_they_are_written(path):
    journal = Journal(path)
    with pytest.raises(ValueError):
        journal.append("note", value=float("nan"))
    journal.close()
    assert path.read_bytes() == b""


def test_a_reader_never_changes_the_file(path):
    written(path)
    with path.open("ab") as stream:
        stream.write(b'{"cut')
    before = path.read_bytes()
    JournalReader(path)
    assert path.read_bytes() == before


def test_no_journal_is_one_clear_line(path):
    with pytest.raises(RunDirectoryError, match="no run there"):
        JournalReader(path)


def test_a_full_disk_is_an_error_and_the_journal_stays_sound(path):
    written(path)
    journal, before = Journal(path), path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))  # a line begins to fit, as on a full disk
    try:
        with pytest.raises(OSError, match="disk is full"):
            journal.append("note")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    journal.append("note")
    assert JournalReader(path).entries[-1]["event"] == "note"
