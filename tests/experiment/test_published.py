"""Published figures are shown beside ours, with their source and the difference in protocol."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError

from sia_runner.config.task import PublishedResults
from sia_runner.experiment.summary import context_markdown, published_lines
from sia_runner.experiment.terminal import closing_lines
from sia_runner.system import bundled_folder
from tests.experiment.test_terminal import summary

PAPER = {
    "source": "A, 2026",
    "protocol": "scored on test",
    "initial": 0.135,
    "prior": None,
    "sia_h": 0.5,
    "sia_wh": None,
}
TOLD = ["published: initial 0.135, SIA-H 0.500 (A, 2026)", "  its protocol differs: scored on test"]


def test_they_stand_behind_our_test_scores_and_in_the_story():
    score = {"value": 0.8, "ci95": [0.7, 0.9], "n": 100}
    best = {"generation": 2, "val": score, "test": score, "baseline_test": None}
    result = summary(status="completed", best=best, published=PAPER)
    lines = closing_lines(result, Path("/r"))
    ours = next(n for n, line in enumerate(lines) if line.startswith("test, best"))
    assert lines[ours + 1 : ours + 3] == TOLD
    assert "- published: initial 0.135" in context_markdown(result)


def test_an_interrupted_run_and_a_task_that_declares_none_tell_none():
    assert not [line for line in closing_lines(summary(published=PAPER), Path("/r")) if "published" in line]
    assert published_lines(None) == []


def test_microseconds_are_told_without_decimals():
    assert published_lines(PAPER | {"initial": 12483.0})[0].startswith("published: initial 12,483, SIA-H 0.500")


def test_figures_without_source_or_protocol_are_refused():
    for key in ("source", "protocol"):
        with pytest.raises(ValidationError):
            PublishedResults.model_validate({k: v for k, v in PAPER.items() if k != key})


def test_every_paper_experiment_has_published_figures():
    """On its task, or in the experiment itself where the task's own default is other data."""
    paths = sorted((bundled_folder("conf") / "experiment").glob("paper_*.yaml"))
    assert paths
    for path in paths:
        experiment = OmegaConf.load(path)
        task = next(choice["override /task"] for choice in experiment.defaults if "override /task" in choice)
        of_task = OmegaConf.load(bundled_folder("conf") / "task" / f"{task}.yaml")
        declared = OmegaConf.select(experiment, "task.published") or of_task.get("published")
        assert declared, path.name
        PublishedResults.model_validate(OmegaConf.to_container(declared))


@pytest.mark.slow
def test_a_run_prints_them_and_keeps_them_in_its_summary(cli, words):
    overrides = [f"+task.published.{key}={json.dumps(value)}" for key, value in PAPER.items()]
    done = cli("task=smoke", *overrides, *cli.replay(words))
    assert done.returncode == 0, done.stderr
    assert all(line in done.stdout for line in TOLD)
    assert cli.summary["published"] == PAPER
