"""Tests of bounded reads in a folder that hostile programs wrote into."""

import os

import pytest

from sia_runner.store import files
from sia_runner.store.files import MAX_LINE_BYTES, LineReader


@pytest.mark.parametrize(
    "path", ["secret", "out/secret.txt", "../secret.txt", "/etc/passwd", "", ".", "a//b", "pipe", "deep"]
)
def test_nothing_outside_and_nothing_that_is_no_file_is_read(tmp_path, path):
    run = tmp_path / "run"
    (run / "deep").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (run / "secret").symlink_to(tmp_path / "secret.txt")
    (run / "out").symlink_to(tmp_path)
    os.mkfifo(run / "pipe")
    assert files.read_slice(run, path) is None
    assert files.load_json(run, path) is None


def test_a_name_with_a_zero_byte_or_half_a_character_is_no_file(tmp_path):
    assert files.read_slice(tmp_path, "a\0b") is None
    assert files.read_slice(tmp_path, "a\ud800") is None


def test_a_piece_is_bounded_and_a_tail_counts_from_the_end(tmp_path):
    (tmp_path / "log").write_bytes(b"0123456789")
    assert files.read_slice(tmp_path, "log", 2, 3) == files.FileSlice(b"234", 2, 5, 10)
    assert files.read_slice(tmp_path, "log", -4).data == b"6789"
    assert files.read_slice(tmp_path, "log", 99).data == b""


def test_json_that_is_broken_deep_or_long_is_none(tmp_path):
    for number, text in enumerate(["{", "[" * 100_000, '"' + "x" * 100 + '"']):
        (tmp_path / f"{number}.json").write_text(text)
        assert files.load_json(tmp_path, f"{number}.json", 100_001 if number < 2 else 50) is None


def test_a_listing_names_links_and_does_not_follow_them(tmp_path):
    (tmp_path / "a").symlink_to("/etc")
    (tmp_path / "b").mkdir()
    (tmp_path / "c").write_text("12")
    assert [(e.name, e.kind, e.size) for e in files.list_folder(tmp_path)] == [
        ("a", "other", 0),
        ("b", "folder", 0),
        ("c", "file", 2),
    ]


class TestLines:
    def given(self, lines):
        return [line.data for line in lines.fresh()]

    def test_each_line_is_read_once_and_a_cut_one_when_it_is_whole(self, tmp_path):
        file, lines = tmp_path / "f", LineReader(tmp_path, "f")
        assert self.given(lines) == []
        file.write_bytes(b"one\ntw")
        assert self.given(lines) == [b"one"]
        assert self.given(lines) == []
        file.open("ab").write(b"o\n")
        assert self.given(lines) == [b"two"]

    def test_places_are_those_in_the_file(self, tmp_path):
        (tmp_path / "f").write_bytes(b"one\n\nthree\n")
        assert [tuple(line) for line in LineReader(tmp_path, "f").fresh()] == [(0, b"one"), (4, b""), (5, b"three")]

    def test_a_file_that_was_written_anew_is_read_from_its_beginning(self, tmp_path):
        file, lines = tmp_path / "f", LineReader(tmp_path, "f")
        file.write_bytes(b"one\ntwo\n")
        self.given(lines)
        assert not lines.restarted
        file.unlink()
        file.write_bytes(b"three\n")
        assert self.given(lines) == [b"three"]
        assert lines.restarted

    def test_a_line_without_end_is_passed_over_and_not_read_again(self, tmp_path):
        file, lines = tmp_path / "f", LineReader(tmp_path, "f")
        file.write_bytes(b"x" * (MAX_LINE_BYTES + (2 << 20)))
        assert self.given(lines) == []
        assert lines.too_long == 1
        assert lines.offset > MAX_LINE_BYTES
        file.open("ab").write(b"x\nnext\n")
        assert self.given(lines) == [b"next"]
        assert lines.too_long == 1

    def test_a_slice_ends_and_the_next_goes_on(self, tmp_path):
        (tmp_path / "f").write_bytes(b"12345\n" * 700_000)
        lines = LineReader(tmp_path, "f")
        counts = [sum(1 for _ in lines.fresh(1 << 20)) for _ in range(6)]
        assert sum(counts) == 700_000
        assert max(counts) < 400_000
