"""A generation is the same record for the run itself, the dashboard, and a tracker that has only the summary."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sia_runner.gateway.ledger_files import read_totals
from sia_runner.store.generations import NO_MODEL, SIA_H, SIA_WH, GenerationRecord, earned_mode
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


def ran(n, calls=0, lever="harness", **steps):
    """A generation whose harness made `calls` model calls."""
    run = {"run": {"runs": [], "usage": {"usd": 0.0, "tokens": 0, "calls": calls}}}
    return GenerationRecord.of(n, {"propose": {"lever": lever}, **run, **steps}, {})


def test_a_run_is_sia_wh_only_if_an_update_of_the_weights_was_tried(tmp_path):
    trained = ran(2, 4, "weights", build={"fault": ""})
    failed = GenerationRecord.of(2, {"propose": {"lever": "weights"}, "build": {"fault": "out of memory"}}, {})
    rejected = GenerationRecord.of(2, {"propose": {"lever": "weights"}, "accept": {"status": "rejected"}}, {})
    for second in (trained, failed):
        assert earned_mode(SIA_WH, [ran(1, 4), second], tmp_path) == SIA_WH
    for second in (ran(2, 4), rejected):  # the plan of an update that a person rejected
        assert earned_mode(SIA_WH, [ran(1, 4), second], tmp_path) == SIA_H


def test_a_run_whose_harnesses_called_no_model_has_a_label_of_its_own(tmp_path):
    for configured in (SIA_H, SIA_WH):
        assert earned_mode(configured, [ran(1), ran(2)], tmp_path) == NO_MODEL
        assert earned_mode(configured, [], tmp_path) == configured
    assert earned_mode(SIA_H, [ran(1), ran(2, calls=1)], tmp_path) == SIA_H


def test_answers_from_the_cache_are_calls_of_a_model_though_they_cost_none(tmp_path):
    (tmp_path / "gen_1").mkdir()
    (tmp_path / "gen_1" / "trajectories.jsonl").touch()
    assert earned_mode(SIA_H, [ran(1)], tmp_path) == SIA_H
