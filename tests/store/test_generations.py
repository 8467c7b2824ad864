"""A generation is the same record for the run itself, the dashboard, and a tracker that has only the summary."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sia_runner.gateway.ledger_files import read_totals
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import JournalReader, finished_generations, read_generations
from tests.results.writing import done, generation, journal

WRITTEN_BEFORE = Path(__file__).parents[1] / "fixtures" / "runs_d029a29"


@pytest.fixture(params=sorted(path.name for path in WRITTEN_BEFORE.glob("*.tar.xz")))
def old_run(request, tmp_path):
    """A run directory that an earlier version wrote."""
    with tarfile.open(WRITTEN_BEFORE / request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / request.param.removesuffix(".tar.xz")


def test_an_old_run_has_the_rows_of_its_summary_whoever_reads_it(old_run):
    summary, totals = json.loads((old_run / "summary.json").read_text()), read_totals(old_run / "ledger")
    strict, tolerant = JournalReader(old_run / "journal.jsonl"), JournalReader(old_run / "journal.jsonl", strict=False)
    tolerant.refresh()
    assert (tolerant.entries, tolerant.head, tolerant.fault) == (strict.entries, summary["journal_head"], "")
    assert finished_generations(strict) == read_generations(tolerant)
    generations = [replace(g, usage=totals.of(generation=g.n).to_json()) for g in finished_generations(strict)]
    rows = summary["generations"]
    assert json.dumps([g.summary_row() for g in generations]) == json.dumps(rows) and rows
    assert [GenerationRecord.from_summary_row(row).summary_row() for row in rows] == rows


def test_a_summary_without_the_fields_of_later_versions_is_read():
    row = {"n": 1, "status": "accepted", "lever": "harness", "val": {"value": 0.5, "ci95": None, "n": 3}}
    assert GenerationRecord.from_summary_row(row) == GenerationRecord(1, "accepted", "harness", usage={})


def test_generations_that_are_under_way_are_read_and_are_not_finished(tmp_path):
    journal(tmp_path, *generation(1), done(2, "propose", lever="harness"), ("start", {"step": "gen_2/build"}))
    reader = JournalReader(tmp_path / "journal.jsonl")
    assert [g.n for g in finished_generations(reader)] == [1]
    assert [(g.status, g.step) for g in read_generations(reader, alive=True)] == [
        ("accepted", ""),
        ("under way", "build"),
    ]
    assert read_generations(reader)[1].status == "cut"
