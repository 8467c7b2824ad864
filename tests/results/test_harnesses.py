"""Tests of the differences between two programs, also of programs that are slow to compare."""

import time

from sia_runner.results.outputs import MAX_DIFF_LINES, MAX_HARNESS_BYTES, diff_harnesses


def program(run, n, **files):
    for name, text in files.items():
        path = run / f"gen_{n}" / "harness" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_a_change_is_a_unified_diff_with_its_places(tmp_path):
    before = [f"line {number}" for number in range(100)]
    after = [*before[:60], "new", *before[60:]]
    program(tmp_path, 1, a="\n".join(before), same="x", gone="y")
    program(tmp_path, 2, a="\n".join(after), same="x", more="z")
    changed, gone, more = diff_harnesses(tmp_path, 1, 2)
    assert (changed.path, changed.added, changed.removed) == ("a.py", 1, 0)
    assert changed.lines == (
        "@@ -58,6 +58,7 @@",
        " line 57",
        " line 58",
        " line 59",
        "+new",
        " line 60",
        " line 61",
        " line 62",
    )
    assert (gone.kind, gone.lines) == ("removed", ("@@ -1 +0,0 @@", "-y"))
    assert (more.kind, more.lines) == ("added", ("@@ -0,0 +1 @@", "+z"))


def test_the_first_one_is_compared_with_nothing(tmp_path):
    program(tmp_path, 1, a="x\ny")
    assert diff_harnesses(tmp_path, None, 1)[0].lines == ("@@ -0,0 +1,2 @@", "+x", "+y")


def test_what_is_no_text_or_too_long_is_said(tmp_path):
    program(tmp_path, 1, a=b"\0", b="x" * (MAX_HARNESS_BYTES + 1))
    assert [item.note for item in diff_harnesses(tmp_path, None, 1)] == ["not text", "longer than 256 KiB"]


def test_programs_that_are_slow_to_compare_are_not_compared(tmp_path):
    program(tmp_path, 1, a="\n".join("ab"[number % 2] for number in range(MAX_DIFF_LINES * 10)))
    program(tmp_path, 2, a="\n".join("ba"[number % 3 % 2] for number in range(MAX_DIFF_LINES * 10)))
    program(tmp_path, 3, a="\n".join("ab"[number % 2] for number in range(MAX_DIFF_LINES)))
    program(tmp_path, 4, a="\n".join("ba"[number % 3 % 2] for number in range(MAX_DIFF_LINES)))
    began = time.process_time()
    assert diff_harnesses(tmp_path, 1, 2)[0].note == "more than 2,000 lines differ"
    assert diff_harnesses(tmp_path, 3, 4)[0].lines
    assert time.process_time() - began < 5


def test_links_out_of_the_program_are_not_followed(tmp_path):
    program(tmp_path, 1, a="x")
    (tmp_path / "gen_1" / "harness" / "passwd").symlink_to("/etc/passwd")
    assert [item.path for item in diff_harnesses(tmp_path, None, 1)] == ["a.py"]
