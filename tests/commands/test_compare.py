"""The command `compare`: real runs side by side, and what is refused."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest
from pydantic import ValidationError

from sia_runner.results.compare import compare_runs, read_finished_runs
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from tests.conftest import Cli


def run_compare(*args):
    command = [sys.executable, "-m", "sia_runner", "compare", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def two(tmp_path_factory, request):
    """Two finished runs on the smoke task: its reference alone, and its recipes."""
    made = []
    for name, generations in (("one", 1), ("more", 3)):
        cli = Cli(tmp_path_factory.mktemp(name))
        cli.run = cli.folder / name
        done = cli("task=smoke", f"max_gen={generations}")
        assert done.returncode == 0, done.stderr
        made.append(cli.run)
    return made


def test_real_runs_are_shown_with_their_scores_and_what_differs(two):
    done = run_compare(*two)
    assert done.returncode == 0, done.stderr
    assert "McNemar p" in done.stdout and "not equal: one and more: max_gen is 1, 3" in done.stdout
    result = json.loads(run_compare(*two, "--json").stdout)
    for row, run in zip(result["runs"], two, strict=True):
        best = json.loads((run / "summary.json").read_text())["best"]
        assert (row["test"], row["val"], row["best"]) == (best["test"], best["val"], best["generation"])
    (pair,) = result["pairs"]
    assert pair["difference"] == pytest.approx(result["runs"][1]["test"]["value"] - result["runs"][0]["test"]["value"])
    assert result == compare_runs(read_finished_runs([RunDir(run) for run in two]))


def test_what_is_not_finished_edited_or_unknown_is_refused_in_one_line(two, tmp_path):
    edited, cut = tmp_path / "edited", tmp_path / "cut"
    shutil.copytree(two[1], edited, symlinks=True)
    scores = next(edited.glob("test/gen_[23]/scores.json"))
    scores.write_text(scores.read_text().replace("0.0", "1.0"))
    shutil.copytree(two[1], cut, symlinks=True)
    lines = (cut / "journal.jsonl").read_text().splitlines(keepends=True)
    (cut / "journal.jsonl").write_text("".join(lines[:-1]))
    for args, why in (
        ((two[0], edited), "was changed since it was written"),
        ((two[0], cut), f"not finished; continue it with resume={cut}"),
        ((two[0],), "one run is no comparison"),
        ((*two, "--jsn"), "--jsn: no such option; did you mean '--json'?; allowed: --json"),
    ):
        done = run_compare(*args)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("refused: ") and why in line


LAUGHS = "a: &a {x: 1, y: 1}\n" + "".join(
    f"{new}: &{new} {{l: *{old}, r: *{old}}}\n" for old, new in pairwise("abcdefghijklmnopqrst")
)


@pytest.mark.parametrize("content", ["", "[" * 50_000, "a: &a {b: *a}", LAUGHS, "a: [", "\x00", "- 1\n", "7"])
@pytest.mark.parametrize("name", ["config.yaml", "lock.json", "summary.json", "journal.jsonl"])
def test_files_that_nobody_wrote_with_this_program_are_refused_in_one_line(two, tmp_path, name, content):
    hostile = shutil.copytree(two[1], tmp_path / "hostile", symlinks=True)
    (hostile / name).write_text(content)
    with pytest.raises((RunDirectoryError, ValidationError)) as refused:
        read_finished_runs([RunDir(two[0]), RunDir(hostile)])
    if isinstance(refused.value, RunDirectoryError):
        assert "hostile" in str(refused.value) and "\n" not in str(refused.value)
