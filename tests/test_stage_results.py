"""What the journal holds of a stage is read back as a record and written again as it was, whatever version wrote it."""

import json
import tarfile

import pytest

from sia_runner.records import Proposal, Status
from sia_runner.stage_results import (
    BuildResult,
    GateResult,
    PlanResult,
    ProposeResult,
    RunResult,
    TestResult,
    Verdict,
    VerifyResult,
)
from sia_runner.store.run_directory import GenerationDir, read_outcomes, write_outcomes
from tests.conftest import ROOT

RECORDS = {
    "propose": ProposeResult,
    "plan": PlanResult,
    "build": BuildResult,
    "gate": GateResult,
    "run": RunResult,
    "verify": VerifyResult,
    "accept": Verdict,
    "test": TestResult,
}


@pytest.fixture(scope="module", params=["sia_h", "sia_wh"])
def earlier_run(request, tmp_path_factory):
    """A run directory of an earlier version."""
    folder = tmp_path_factory.mktemp("runs")
    with tarfile.open(ROOT / "tests" / "fixtures" / "runs_d029a29" / f"{request.param}.tar.xz") as archive:
        archive.extractall(folder, filter="tar")
    return folder / request.param


def written_again(step, result):
    where, _, name = step.partition("/")
    return RECORDS["test" if where == "test" else name].from_json(result).to_json()


def test_every_result_of_an_earlier_version_is_written_again_as_it_was(earlier_run):
    entries = [json.loads(line) for line in (earlier_run / "journal.jsonl").read_text().splitlines()]
    steps = {entry["step"]: entry["result"] for entry in entries if entry["event"] == "done"}
    assert len(steps) > 10
    for step, result in steps.items():
        assert json.dumps(written_again(step, result)) == json.dumps(result), step


@pytest.mark.parametrize(
    ("step", "result"),
    [
        ("gen_1/build", {"fault": "the harness has no target_agent.py", "sha256": None}),
        ("gen_1/build", {"fault": "grpo: no reward", "sha256": "s", "unscored": True}),
        ("gen_1/gate", {"fault": "SyntaxError: invalid syntax"}),
        ("gen_1/gate", {"fault": "exit code 1", "unscored": False, "usage": {"usd": 0.5, "tokens": 3, "calls": 1}}),
        ("gen_1/plan", {"sha256": "a", "json_sha256": "b"}),
        ("gen_1/accept", {"status": "failed", "reason": "gate: exit code 1"}),
        (
            "gen_1/accept",
            {"status": "rejected", "reason": "worse", "difference": -0.1, "standard_error": 0.1, "p_value": 0.5},
        ),
    ],
)
def test_a_key_without_a_value_stays_absent_or_null(step, result):
    assert json.dumps(written_again(step, result)) == json.dumps(result)


def test_a_verdict_knows_whether_it_accepts():
    assert Verdict(Status.ACCEPTED, "gain").accepted and not Verdict(Status.UNSCORED, "no budget").accepted


def test_the_parent_of_an_earlier_versions_proposal_is_found(earlier_run):
    """It stood in decision.json only."""
    n = 2
    generation = GenerationDir(earlier_run / f"gen_{n}", n)
    assert "parent" not in json.loads(generation.proposal.read_text())
    proposal = generation.read_proposal()
    assert proposal.parent == 1 and proposal.evidence["incumbent"] == 1
    assert Proposal.from_json(proposal.to_json()) == proposal


def test_outcomes_are_read_as_they_were_written(earlier_run, tmp_path):
    scores = earlier_run / "gen_2" / "scores.json"
    write_outcomes(tmp_path / "scores.json", read_outcomes(scores))
    assert (tmp_path / "scores.json").read_bytes() == scores.read_bytes()
