"""Each tool on a desk of its own."""

import pytest

from sia_runner.proposers.llm_tools import available_tools
from sia_runner.proposers.llm_workspace import Draft, ProposalWorkspace, ToolRefused
from sia_runner.records import Trial
from tests.proposers.llm.scripted import ENTRY, Bench

LOG = "one\nTwo two\nthree\n"


def desk(**given) -> ProposalWorkspace:
    harness = {ENTRY: "A = 1\nB = 1\n", "data/words.txt": "ein Wort\n"}
    facts = {
        "evidence": {"overview.md": "Look.\n", "trajectories/q1.md": LOG},
        "draft": Draft(harness, ENTRY),
        "workbench": Bench([]),
        "trials": 3,
        "questions": 4,
        "answer_bytes": 2000,
        "first": False,
    }
    return ProposalWorkspace(**(facts | given))


def call(on: ProposalWorkspace, name: str, **given) -> str:
    tool = available_tools(first=False, trials=1, weights=True, earlier=True)[name]
    return tool.call(on, tool.model_construct(**given).model_dump_json(exclude_unset=True))


def refused(on: ProposalWorkspace, name: str, **given) -> str:
    with pytest.raises(ToolRefused) as caught:
        call(on, name, **given)
    return str(caught.value)


def test_list_files_shows_both_folders_or_one():
    assert call(desk(), "list_files").splitlines() == [
        "evidence/overview.md  6 bytes",
        "evidence/trajectories/q1.md  18 bytes",
        "harness/data/words.txt  9 bytes",
        f"harness/{ENTRY}  12 bytes",
    ]
    for folder in ("evidence/trajectories", "evidence/trajectories/", "./evidence//trajectories"):
        assert call(desk(), "list_files", folder=folder) == "evidence/trajectories/q1.md  18 bytes"
    assert "there is nothing in 'evidence/nowhere'" in refused(desk(), "list_files", folder="evidence/nowhere")


def test_a_long_list_is_cut_and_says_so():
    many = {f"trajectories/{n:04}.md": "" for n in range(1000)}
    listed = call(desk(evidence=many, answer_bytes=100_000), "list_files", folder="evidence")
    assert listed.endswith("… and 600 more; name a folder")
    assert len(call(desk(evidence=many), "list_files").encode()) <= 2000


def test_an_earlier_candidate_is_opened_among_the_evidence_and_no_other_one():
    on = desk(candidates=(1, 3))
    assert "1 dev failures, 1 files of the harness" in call(on, "open_candidate", generation=3)
    assert "print(3)" in call(on, "read_file", path=f"evidence/candidates/gen_3/harness/{ENTRY}")
    assert '"gold": "4"' in call(on, "search", pattern="2 + 2", folder="evidence/candidates")
    assert "there are: 1, 3" in refused(on, "open_candidate", generation=2)


def test_read_file_says_which_lines_it_shows():
    assert call(desk(), "read_file", path="evidence/trajectories/q1.md") == (
        "[evidence/trajectories/q1.md: lines 1 to 3 of 3]\none\nTwo two\nthree"
    )
    part = call(desk(), "read_file", path="evidence/trajectories/q1.md", offset=2, limit=1)
    assert part == "[evidence/trajectories/q1.md: lines 2 to 2 of 3; read on with offset=3]\nTwo two"


def test_read_file_is_bounded_and_can_be_continued_to_the_end():
    text = "".join(f"line {n} äöü\n" for n in range(500))
    on, offset, seen = desk(evidence={"log.txt": text}), 1, ""
    while offset:
        head, _, body = call(on, "read_file", path="evidence/log.txt", offset=offset).partition("\n")
        assert len(body.encode()) <= 2000
        seen += body + "\n"
        offset = int(head.rpartition("=")[2].rstrip("]")) if "read on" in head else 0
    assert seen == text


def test_one_endless_line_is_cut_in_the_middle():
    on = desk(evidence={"log.txt": "A" * 1_000_000 + "END"})
    answer = call(on, "read_file", path="evidence/log.txt")
    assert "bytes left out" in answer
    assert answer.endswith("END")
    assert len(answer.encode()) <= 2000


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("evidence/nothing.txt", "there is no file evidence/nothing.txt"),
        ("evidence/trajectories", "evidence/trajectories is a folder"),
        ("evidence", "evidence/ is a folder"),
        ("notes.md", "is neither in evidence/ nor in harness/"),
        ("", "is neither in evidence/ nor in harness/"),
        ("/etc/passwd", "leads out"),
        ("evidence/../../secret", "leads out"),
        ("harness/\0", "leads out"),
    ],
)
def test_what_cannot_be_read_is_said(path, fault):
    assert fault in refused(desk(), "read_file", path=path)


def test_offsets_outside_a_file_are_named():
    assert "has 3 lines" in refused(desk(), "read_file", path="evidence/trajectories/q1.md", offset=4)
    assert "offset" in refused(desk(), "read_file", path="evidence/trajectories/q1.md", offset=0)
    empty = desk(evidence={"empty": ""})
    assert call(empty, "read_file", path="evidence/empty") == "[evidence/empty: lines 1 to 0 of 0]"


def test_search_finds_text_with_its_place():
    assert call(desk(), "search", pattern="two") == "evidence/trajectories/q1.md:2: Two two"
    assert call(desk(), "search", pattern="TWO", ignore_case=True) == "evidence/trajectories/q1.md:2: Two two"
    assert call(desk(), "search", pattern="TWO") == "no match"
    assert call(desk(), "search", pattern="= 1", folder="harness").splitlines() == [
        f"harness/{ENTRY}:1: A = 1",
        f"harness/{ENTRY}:2: B = 1",
    ]


def test_search_takes_regular_expressions_when_asked_to():
    assert call(desk(), "search", pattern="^t.*e$", regex=True) == "evidence/trajectories/q1.md:3: three"
    assert call(desk(), "search", pattern="^T.*E$", regex=True, ignore_case=True).endswith("three")
    assert call(desk(), "search", pattern="t.*e$") == "no match"
    assert "not a regular expression" in refused(desk(), "search", pattern="(", regex=True)


def test_a_pattern_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr("sia_runner.proposers.llm_workspace.CHILD_SECONDS", 0.5)
    on = desk(evidence={"log.txt": "a" * 200})
    assert "took longer than" in refused(on, "search", pattern="(a|a)*b", regex=True)


def test_search_answers_are_bounded():
    on = desk(evidence={"log.txt": "needle " * 300_000 + "\n" + "needle\n" * 1000}, answer_bytes=60_000)
    for regex in (False, True):
        answer = call(on, "search", pattern="needle", regex=regex)
        assert len(answer.splitlines()) == 101
        assert answer.endswith("only the first 100 matches are shown")
        assert max(len(line) for line in answer.splitlines()) < 400


def test_write_file_replaces_and_reports_a_syntax_error_at_once():
    on = desk()
    assert (
        call(on, "write_file", path="harness/new/tool.py", content="X = 1\n") == "harness/new/tool.py has 1 lines now"
    )
    broken = call(on, "write_file", path="harness/new/tool.py", content="def f(:\n")
    assert "It does not parse: SyntaxError: invalid syntax (new/tool.py, line 1)" in broken
    assert on.draft.files["new/tool.py"] == "def f(:\n"


def test_write_file_keeps_every_byte():
    on, text = desk(), "a\r\nb\tc\u2028 ä\n\n"
    call(on, "write_file", path="harness/x.txt", content=text)
    assert on.draft.files["x.txt"] == text


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("evidence/overview.md", "evidence/ is read-only"),
        ("harness", "name a file in it"),
        ("harness/", "name a file in it"),
        ("harness/../evidence/x", "leads out"),
        ("harness/data", "cannot both be files"),
        (f"harness/{ENTRY}/x", "cannot both be files"),
        ("harness/a\nb", "printable"),
        ("harness/a\\b", "printable"),
        ("harness/" + "x" * 300, "at most 180 bytes"),
    ],
)
def test_places_that_cannot_be_written_are_refused(path, fault):
    on = desk()
    before = on.draft.files
    assert fault in refused(on, "write_file", path=path, content="x")
    assert on.draft.files == before


def test_a_harness_cannot_grow_without_bound():
    on = desk()
    assert "allowed: 4194304" in refused(on, "write_file", path="harness/big.txt", content="x" * (4 << 20))
    for n in range(198):
        on.draft.write(f"n{n}", "")
    assert "200 files already" in refused(on, "write_file", path="harness/one-more", content="")
    assert "n0 has 1 lines now" in call(on, "write_file", path="harness/n0", content="still replaceable")


def test_edit_file_replaces_exactly_one_place():
    on = desk()
    assert "occurs more than once" in refused(on, "edit_file", path=f"harness/{ENTRY}", old="= 1", new="= 2")
    assert "does not occur" in refused(on, "edit_file", path=f"harness/{ENTRY}", old="= 3", new="= 2")
    assert on.draft.files[ENTRY] == "A = 1\nB = 1\n"
    call(on, "edit_file", path=f"harness/{ENTRY}", old="A = 1\n", new="A = 2\n")
    assert on.draft.files[ENTRY] == "A = 2\nB = 1\n"


def test_edit_file_does_not_guess_between_overlapping_places():
    on = desk()
    call(on, "write_file", path="harness/x", content="aaa")
    assert "more than once" in refused(on, "edit_file", path="harness/x", old="aa", new="b")


def test_edit_and_delete_need_the_file():
    assert "there is no file harness/x" in refused(desk(), "edit_file", path="harness/x", old="a", new="b")
    assert "there is no file harness/x" in refused(desk(), "delete_file", path="harness/x")
    assert "read-only" in refused(desk(), "delete_file", path="evidence/overview.md")
    on = desk()
    call(on, "delete_file", path="harness/data/words.txt")
    assert list(on.draft.files) == [ENTRY]


def test_a_trial_of_huge_outputs_is_shown_within_bounds():
    example = {"question": "q" * 100_000, "gold": "G"}
    trial = Trial(0.5, 4, 1.0, "", {"wrong": 2}, (example,) * 50, "noise " * 100_000)
    answer = call(desk(workbench=Bench([], lambda files: trial)), "try_harness")
    assert len(answer.encode()) <= 2000
    assert '"gold": "G"' in answer
    assert answer.endswith("noise ")


def test_schemas_name_every_argument_and_forbid_others():
    for name, tool in available_tools(first=False, trials=1, weights=True, earlier=True).items():
        schema = tool.declaration()
        assert schema["function"]["name"] == name
        assert schema["function"]["parameters"]["additionalProperties"] is False
        assert schema["function"]["parameters"]["type"] == "object"
    submit = available_tools(first=True, trials=0, weights=False, earlier=False)["submit"].declaration()["function"][
        "parameters"
    ]
    assert set(submit["properties"]) == set(submit["required"]) == {"title", "rationale", "expected_effect"}
