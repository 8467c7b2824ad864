"""What mlebench's own grader says of a test submission, where the package is installed."""

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
    """mlebench's grader could not be run; the message says why in a few words."""


def grade(package: Path, competition: str, prepared: Path, submission: Path, seconds: float) -> float | None:
    """The score; None where the grader takes the submission for invalid. Raises GraderFailedError."""
    program = Path(__file__).with_name("grader.py")
    with tempfile.TemporaryDirectory(prefix="sia-mlebench-") as temporary:
        place = Path(temporary) / "data" / competition
        place.mkdir(parents=True)
        (place / "prepared").symlink_to(prepared)
        arguments = [str(package.parent), competition, str(place.parent), str(submission)]
        done = run_program([sys.executable, "-I", str(program), *arguments], seconds, Path(temporary))
    if done.exit_code is None:
        raise GraderFailedError(f"no answer within {seconds:g} s")
    if done.exit_code:
        raise GraderFailedError(done.errors.strip().rpartition("\n")[2][:200])
    return json.loads(done.output.decode().strip().rpartition("\n")[2])["score"]


def write_submission(
    sample: Path, one: Competition, columns: Sequence[str], answers: Mapping[str, Cells], dest: Path
) -> None:
    """The harness's answers (by the test file's ids, or row numbers where it has none) in the competition's own form:
    rows of its sample submission with the answers put in, unanswered ones left out."""
    with (
        sample.open(encoding="utf-8-sig", newline="") as source,
        dest.open("w", encoding="utf-8", newline="") as target,
    ):
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, rows.fieldnames or [])
        writer.writeheader()
        for place, row in enumerate(rows):
            cells = answers.get(row[one.id] if one.id else str(place))
            if cells is not None:
                writer.writerow(row | dict(zip(columns, cells, strict=True)))
