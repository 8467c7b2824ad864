"""Hostile text is shown bounded, without control characters, and cannot end the block it stands in."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from sia_runner.text import fenced_block, one_line, strip_control_characters, table_cell, truncate_bytes

# surrogates too: they come out of JSON escapes
ANY = st.text(st.characters(), max_size=300) | st.text(
    st.sampled_from("`~\n\r\t|\x1b\u202e\u2028\ud800盗é "), max_size=300
)


@given(ANY)
def test_no_control_character_is_left_but_line_feed_and_tab(text):
    result = strip_control_characters(text)
    assert all(c in "\n\t" or unicodedata.category(c)[0] != "C" for c in result)
    assert strip_control_characters(result) == result
    result.encode()


def test_ordinary_text_in_any_script_stays_as_it_is():
    for text in ("a b\n\tc", "盗窃罪\u3000二", "naïve — “quoted” 😀", ""):
        assert strip_control_characters(text) == text


def test_what_would_rewrite_a_line_becomes_a_line_of_its_own():
    assert strip_control_characters("real\rfake\x1b[2K") == "real\nfake[2K"
    assert strip_control_characters("a\u2028b\x85c\r\nd") == "a\nb\nc\nd"


@given(ANY, st.integers(0, 400))
def test_a_cut_text_fits_and_says_how_much_is_missing(text, limit):
    result = truncate_bytes(text, limit)
    size = len(text.encode(errors="replace"))
    if result == text:
        assert size <= limit
    else:
        assert len(result.encode(errors="replace")) <= max(limit, 96) and "characters cut" in result
    assert result == text or size > limit


def test_a_cut_text_shows_its_beginning_and_its_end():
    result = truncate_bytes("begin" + "x" * 10_000_000 + "end", 200)
    assert result.startswith("begin") and result.endswith("end") and "9,999," in result


@given(ANY)
def test_no_text_ends_its_code_block(text):
    first, *inside, last = fenced_block(text).split("\n")
    assert set(first) == {"`"} and first == last
    assert all(not line.strip().startswith(first) for line in inside)


@given(ANY, st.integers(1, 100))
def test_one_line_is_one_and_bounded(text, limit):
    result = one_line(text, limit)
    assert len(result) <= limit and len(result.splitlines()) <= 1


@given(ANY)
def test_a_cell_stays_in_its_column(text):
    result = table_cell(text)
    assert len(result.splitlines()) == 1 and result.replace("\\|", "").count("|") == 0
    assert result == "(empty)" or (result[0] == result[-1] == "`" and "`" not in result[1:-1])
