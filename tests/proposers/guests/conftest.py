"""A toy task and two moments of a run, for guests."""

from pathlib import Path

import pytest

from sia_runner.proposers.guests import ClaudeCode, GuestProposer, OpenHands, PydanticAI
from sia_runner.proposers.protocol import Brief, ProposerContext

KINDS: list[type[GuestProposer]] = [ClaudeCode, PydanticAI, OpenHands]
OLD = 'print("old")\n'
GOLD = "the-right-answer-of-the-test"


def toy(folder: Path) -> ProposerContext:
    """A task whose folder also holds what no proposer may see."""
    (folder / "reference").mkdir(parents=True)
    (folder / "reference" / "target_agent.py").write_text(OLD)
    (folder / "data" / "private").mkdir(parents=True)
    (folder / "data" / "private" / "answers.csv").write_text(f"id,gold\n1,{GOLD}\n")
    description = "# Toy\nSay something new.\n"
    return ProposerContext(
        "toy", folder, folder / "reference", "target_agent.py", 0, description, "submission.csv", 60.0, True
    )


def third(evidence: Path) -> Brief:
    """Generation 3, which extends generation 2."""
    (evidence / "harness").mkdir(parents=True)
    (evidence / "harness" / "target_agent.py").write_text(OLD)
    (evidence / "overview.md").write_text("# What happened\nQuestion 7 failed.\n")
    (evidence / "task.md").write_text("# Toy\n")
    return Brief(3, 4, evidence, [], 2, True, parent=2)


@pytest.fixture
def context(tmp_path: Path) -> ProposerContext:
    return toy(tmp_path / "task")


@pytest.fixture
def first() -> Brief:
    return Brief(1, 4, None, [], None, True)


@pytest.fixture
def later(tmp_path: Path) -> Brief:
    return third(tmp_path / "evidence")
