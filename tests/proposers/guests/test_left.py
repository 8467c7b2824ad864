"""From what a guest left behind to a proposal: hostile files, hostile words, all kinds of endings."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.proposers.guest_programs.ask_host import read_files
from sia_runner.proposers.guests import LAST_MESSAGE_FILE, guest_proposal
from sia_runner.proposers.protocol import Brief, GuestResult
from sia_runner.records import Lever, Proposal, Usage

OLD = {"target_agent.py": "print('old')\n"}
NEW = {"target_agent.py": "print('new')\n"}
SPENT = Usage(0.25, 1000, 7)


def brief(n: int = 3) -> Brief:
    return Brief(n, 5, None, [], None, True)


def said(words: str, ended: str = "") -> dict[str, str]:
    return {LAST_MESSAGE_FILE: json.dumps({"words": words, "ended": ended})}


def judge(files: dict[str, str], failure: str = "", n: int = 3) -> Proposal:
    return guest_proposal("claude_code", brief(n), OLD, GuestResult(files, failure, "", SPENT))


def test_the_first_line_of_its_last_message_is_the_title_and_the_rest_the_reason():
    made = judge(NEW | said("## Parse the last letter\n\nHalf the answers were cut.\nNow they are not."))
    assert made.lever is Lever.HARNESS
    assert made.title == "Parse the last letter"
    assert made.rationale == "Half the answers were cut.\nNow they are not."
    assert made.files == NEW
    assert made.usage == SPENT
    assert made.improvement.startswith("# Generation 3: Parse the last letter\n")
    assert "- `target_agent.py`" in made.improvement


def test_its_own_note_and_hidden_files_and_caches_are_no_part_of_the_harness():
    rubbish = {
        "caf\udce9.py": "",
        "a\nb.py": "",
        ".claude/settings.json": "{}",
        "lib/.cache": "",
        "__pycache__/a.txt": "",
        "a/node_modules/b.js": "",
    }
    made = judge(NEW | rubbish | {"lib/help.py": "X = 1\n"} | said("Title"))
    assert set(made.files) == {"target_agent.py", "lib/help.py"}


def test_a_trial_runs_the_files_that_would_be_proposed(tmp_path):
    for name in (".claude/settings.json", "lib/.cache", "__pycache__/a.txt", "a/node_modules/b.js", "lib/help.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "picture").write_bytes(b"\xff")
    assert set(read_files(tmp_path)) == {"lib/help.py"}


def test_a_deleted_file_is_a_change():
    given = OLD | {"unused.py": ""}
    made = guest_proposal("claude_code", brief(), given, GuestResult(OLD | said("Tidy"), "", "", SPENT))
    assert made.files == OLD
    assert "`unused.py`" in made.improvement


@pytest.mark.parametrize("ended", ["it used its 20 turns", ""])
def test_a_guest_that_changed_nothing_makes_a_proposal_without_files_that_says_so(ended):
    made = judge(OLD | said("", ended))
    assert made.lever is Lever.HARNESS
    assert made.files == {}
    assert made.rationale.startswith("claude_code changed nothing")
    assert ended in made.rationale
    assert made.usage == SPENT


def test_a_program_that_died_is_named_with_its_failure():
    made = judge(dict(OLD), failure="timeout: stopped after 900 s")
    assert made.files == {}
    assert made.rationale == "claude_code changed nothing: timeout: stopped after 900 s."


def test_what_it_changed_before_it_was_cut_short_is_proposed_and_said():
    made = judge(NEW, failure="timeout: stopped after 900 s")
    assert made.files == NEW
    assert "cut short (timeout: stopped after 900 s)" in made.rationale
    assert made.title == "claude_code: target_agent.py"


def test_the_reference_harness_may_stay_as_it_is_in_the_first_generation_only():
    words = said("It is good as it is\nI ran it.")
    assert judge(OLD | words, n=1).files == OLD
    assert judge(OLD | words, n=2).files == {}
    assert judge(OLD | said("", "it used its 20 turns"), n=1).files == {}


def test_stop_ends_the_search_only_where_nothing_was_changed():
    assert judge(OLD | said("STOP: all of it was tried")) == Proposal(
        Lever.STOP, "STOP: all of it was tried", usage=SPENT
    )
    assert judge(NEW | said("STOP words can be confusing\nSo I removed them.")).lever is Lever.HARNESS
    assert judge(OLD | said("STOPPED early")).lever is Lever.HARNESS
    assert judge(OLD | said("STOP: it is good"), n=1).files == OLD


@pytest.mark.parametrize(
    "note",
    [
        "",
        "not json",
        "[1]",
        "null",
        '{"words": 1, "ended": ""}',
        '{"words": "no end"}',
        "[" * 100_000,
        '{"words": "' + "x" * 400_000 + '", "ended": ""}',
        '{"words": ' + "9" * 10_000 + ', "ended": ""}',
    ],
)
def test_a_note_that_is_none_leaves_the_harness_proposed_without_words(note):
    made = judge(NEW | {LAST_MESSAGE_FILE: note})
    assert made.files == NEW
    assert made.title == "claude_code: target_agent.py"


@given(st.text(), st.text(), st.booleans())
def test_whatever_it_says_the_proposal_can_be_written_down_as_short_lines(words, ended, changed):
    made = judge((NEW if changed else OLD) | said(words, ended))
    json.dumps(made.to_json(), ensure_ascii=False).encode("utf-8")
    assert "\n" not in made.title and len(made.title) <= 100
    assert all(unicodedata.category(letter)[0] != "C" or letter in "\n\t" for letter in made.rationale + made.title)
    assert len(made.rationale) < 8000


def test_half_a_surrogate_pair_spelled_in_json_does_not_reach_the_journal():
    made = judge(NEW | {LAST_MESSAGE_FILE: '{"words": "a \\ud800 b\\nc \\udfff", "ended": ""}'})
    assert (made.title, made.rationale) == ("a ? b", "c ?")
