"""The grading of a test submission by mlebench's own grader, where the package is installed."""

import csv
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sia_runner.schema.competitions import Competition
from sia_runner.tasks.process import run_program

Cells = tuple[str, ...]


class GraderFailedError(Exception):
    """The grader of mlebench could not be run; the message says why in a few words."""


def grade_submission(package: Path, competition: str, prepared: Path, submission: Path, seconds: float) -> float | None:
    """Return the score; None where the grader takes the submission for invalid. Raises GraderFailedError."""
    program = Path(__file__).with_name("grader.py")
    with tempfile.TemporaryDirectory(prefix="sia-mlebench-") as temporary:
        folder = Path(temporary) / "data" / competition
        folder.mkdir(parents=True)
        (folder / "prepared").symlink_to(prepared)
        arguments = [str(package.parent), competition, str(folder.parent), str(submission)]
        result = run_program([sys.executable, "-I", str(program), *arguments], seconds, Path(temporary))
    if result.exit_code is None:
        raise GraderFailedError(f"no answer within {seconds:g} s")
    if result.exit_code:
        raise GraderFailedError(result.errors.strip().rpartition("\n")[2][:200])
    return json.loads(result.output.decode().strip().rpartition("\n")[2])["score"]


def write_submission(
    sample: Path, competition: Competition, columns: Sequence[str], answers: Mapping[str, Cells], dest: Path
) -> None:
    """Write the harness's answers in the competition's own form, to `dest`.

    The rows are those of the sample submission with the answers put in, unanswered ones left out. `answers` are by the
    test file's ids, or by row numbers where it has none.
    """
    with (
        sample.open(encoding="utf-8-sig", newline="") as source,
        dest.open("w", encoding="utf-8", newline="") as target,
    ):
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, rows.fieldnames or [])
        writer.writeheader()
        for number, row in enumerate(rows):
            cells = answers.get(row[competition.id] if competition.id else str(number))
            if cells is not None:
                writer.writerow(row | dict(zip(columns, cells, strict=True)))
