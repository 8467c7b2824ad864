"""A proposed harness is hostile text: it is written inside its folder or refused with one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.experiment.harness_files import FaultyHarness, read_harness, syntax_fault, write_harness
from sia_runner.proposers.files import MAX_HARNESS_BYTES

ENTRY = "target_agent.py"


def test_a_harness_is_written_as_it_is_and_replaces_the_one_before(tmp_path):
    folder = tmp_path / "harness"
    write_harness({ENTRY: "x = 1\r\n", "old.py": ""}, folder, ENTRY)
    write_harness({ENTRY: "x = 2\r\n", "tools/parse.py": "y = '罪'\n"}, folder, ENTRY)
    assert read_harness(folder) == {ENTRY: "x = 2\r\n".replace("\r\n", "\n"), "tools/parse.py": "y = '罪'\n"}
    assert (folder / ENTRY).read_bytes() == b"x = 2\r\n"


@pytest.mark.parametrize("name", ["../out.py", "/etc/x", "a/../../x", "", "a\0b", "x" * 300])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(FaultyHarness, match="harness folder"):
        write_harness({ENTRY: "", name: ""}, tmp_path / "harness", ENTRY)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_entry_names_what_is_there(tmp_path):
    with pytest.raises(FaultyHarness, match=r"target_agent\.py.*main\.py"):
        write_harness({"main.py": ""}, tmp_path / "harness", ENTRY)


def test_size_and_count_are_bounded(tmp_path):
    with pytest.raises(FaultyHarness, match="bytes"):
        write_harness({ENTRY: "x" * (MAX_HARNESS_BYTES + 1)}, tmp_path / "harness", ENTRY)
    with pytest.raises(FaultyHarness, match="files"):
        write_harness({ENTRY: "", **{f"m{k}.py": "" for k in range(300)}}, tmp_path / "harness", ENTRY)


@pytest.mark.parametrize(
    "source",
    ["def f(:\n", "x = '\udc80'".encode(errors="ignore").decode() + "(", "(" * 100_000, "-" * 1_000_000 + "1", "\0"],
)
def test_every_syntax_error_is_one_line_and_never_hurts_the_runner(tmp_path, source):
    folder = tmp_path / "harness"
    write_harness({ENTRY: "", "tools.py": source}, folder, ENTRY)
    fault = syntax_fault(folder, ENTRY)
    assert fault and "\n" not in fault and len(fault) <= 300


def test_sound_sources_have_no_fault(tmp_path):
    write_harness({ENTRY: "import tools.parse\n", "tools/parse.py": "x: int = 1\n"}, tmp_path / "harness", ENTRY)
    assert syntax_fault(tmp_path / "harness", ENTRY) == ""


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4))
def test_whatever_is_proposed_nothing_is_written_outside(tmp_path_factory, files):
    outer = tmp_path_factory.mktemp("outer")
    try:
        write_harness({ENTRY: "", **files}, outer / "harness", ENTRY)
    except (FaultyHarness, OSError):
        pass
    assert {path.name for path in outer.iterdir()} <= {"harness", ".harness.tmp"}


@pytest.mark.parametrize("names", [("a", "a/b"), ("x" * 300 + ".py",)])
def test_names_that_no_file_system_takes_are_the_proposals_fault(tmp_path, names):
    files = {"target_agent.py": "", **dict.fromkeys(names, "")}
    with pytest.raises(FaultyHarness, match="file name"):
        write_harness(files, tmp_path / "harness", "target_agent.py")
