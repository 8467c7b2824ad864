"""The allowance of a job on another node, once the job is over and its process cannot be checked."""

import json

import pytest

from sia_runner.wire.grants import BudgetFullyReserved, BudgetSpent
from tests.gateway.test_ledger import grant, ledger, spend


def on_another_node(folder, job):
    """A gateway of `job` took 90 of 100 tokens for a call, and its node is gone."""
    elsewhere = ledger(folder, tokens=100, share=0.9)
    elsewhere.reserve(grant(), input_tokens=10, output_tokens=0)
    register = folder / "ledger" / "leases.jsonl"
    lines = [json.loads(line) for line in register.read_text().splitlines()]
    for line in lines:
        line["process"] |= {"host": "n17", "boot": "other", "job": job}
    register.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return elsewhere


def test_is_kept_for_it_as_long_as_nobody_knows_better(tmp_path):
    on_another_node(tmp_path, "4711")
    with pytest.raises(BudgetFullyReserved):
        spend(ledger(tmp_path, tokens=100, share=0.9), tokens=50)


def test_is_free_when_the_job_is_known_to_be_over_except_what_was_sent(tmp_path):
    on_another_node(tmp_path, "4711")
    driver = ledger(tmp_path, tokens=100, share=0.9)
    driver.release_allowances(["4710"])
    with pytest.raises(BudgetFullyReserved):
        spend(driver, tokens=50)
    driver.release_allowances(["4710", "4711"])
    spend(driver, tokens=90)
    with pytest.raises(BudgetSpent):
        spend(driver, tokens=1)


def test_is_free_for_the_next_start_of_the_same_job(tmp_path, monkeypatch):
    on_another_node(tmp_path, "4711")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    spend(ledger(tmp_path, tokens=100, share=0.9), tokens=90)
