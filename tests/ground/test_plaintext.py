"""Hostile text is shown bounded, without control characters, and cannot end the block it stands in."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from sia_runner.ground.plaintext import cell, cut, fenced, one_line, plain

# surrogates too: they come out of JSON escapes
ANY = st.text(st.characters(), max_size=300) | st.text(
    st.sampled_from("`~\n\r\t|\x1b\u202e\u2028\ud800盗é "), max_size=300
)


@given(ANY)
def test_no_control_character_is_left_but_line_feed_and_tab(text):
    found = plain(text)
    assert all(c in "\n\t" or unicodedata.category(c)[0] != "C" for c in found)
    assert plain(found) == found
    found.encode()


def test_ordinary_text_in_any_script_stays_as_it_is():
    for text in ("a b\n\tc", "盗窃罪\u3000二", "naïve — “quoted” 😀", ""):
        assert plain(text) == text


def test_what_would_rewrite_a_line_becomes_a_line_of_its_own():
    assert plain("real\rfake\x1b[2K") == "real\nfake[2K"
    assert plain("a\u2028b\x85c\r\nd") == "a\nb\nc\nd"


@given(ANY, st.integers(0, 400))
def test_a_cut_text_fits_and_says_how_much_is_missing(text, most):
    found = cut(text, most)
    size = len(text.encode(errors="replace"))
    if found == text:
        assert size <= most
    else:
        assert len(found.encode(errors="replace")) <= max(most, 96) and "characters cut" in found
    assert found == text or size > most


def test_a_cut_text_shows_its_beginning_and_its_end():
    found = cut("begin" + "x" * 10_000_000 + "end", 200)
    assert found.startswith("begin") and found.endswith("end") and "9,999," in found


@given(ANY)
def test_no_text_ends_its_code_block(text):
    first, *inside, last = fenced(text).split("\n")
    assert set(first) == {"`"} and first == last
    assert all(not line.strip().startswith(first) for line in inside)


@given(ANY, st.integers(1, 100))
def test_one_line_is_one_and_bounded(text, most):
    found = one_line(text, most)
    assert len(found) <= most and len(found.splitlines()) <= 1


@given(ANY)
def test_a_cell_stays_in_its_column(text):
    found = cell(text)
    assert len(found.splitlines()) == 1 and found.replace("\\|", "").count("|") == 0
    assert found == "(empty)" or (found[0] == found[-1] == "`" and "`" not in found[1:-1])
