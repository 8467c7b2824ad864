"""Tests of names for Weights & Biases: what wandb or its server refuses is refused before the start."""

import pytest
import yaml
from pydantic import ValidationError

from sia_runner.__main__ import main
from sia_runner.config.components import check_wandb_name
from sia_runner.config.composition import compose_overrides, explain_validation_error
from sia_runner.config.experiment import check_experiment
from sia_runner.config.migration import read_stored_config

LONG = "g" * 130
NAMES = ["team/proj", "a:b", "a\\b", "50%", "why?", "#1", "p" * 129, "p" * 128, "my project", "größe", "a.b-c_d"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_valid_if_wandb_takes_it(name):
    wandb_settings = pytest.importorskip("wandb.sdk.wandb_settings", reason="NOT COMPARED: wandb is not installed")
    from wandb.errors import UsageError

    def accepts(check):
        try:
            check()
        except (UsageError, ValueError):
            return False
        return True

    assert accepts(lambda: check_wandb_name(name)) is accepts(lambda: wandb_settings.Settings(project=name))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("tracker.project=team/proj", ("tracker.project: it has /;", "tracker.entity")),
        ("tracker.project='a:b'", ("tracker.project: it has :;",)),
        (f"tracker.project={LONG}", ("tracker.project: it has 130 characters; allowed: 1 to 128",)),
        ("tracker.entity=a/b", ("tracker.entity: it has /;",)),
        (f"tracker.group={LONG}", ("tracker.group", "128")),
    ],
)
def test_a_name_that_wandb_refuses_is_refused_with_the_key(override, parts):
    config = compose_overrides(["task=smoke", "tracker=wandb", override])
    with pytest.raises(ValidationError) as refusal:
        check_experiment(config)
    (line,) = explain_validation_error(refusal.value, config)
    assert all(part in line for part in parts) and len(line) < 300


def test_sync_refuses_it_too(capsys, tmp_path):
    assert main(["sync", str(tmp_path), "project=team/proj"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "project: it has /" in line


def test_a_run_that_was_started_with_such_a_name_can_still_be_resumed(tmp_path):
    overrides = ["task=smoke", "tracker=wandb"]
    stored = compose_overrides([*overrides, "tracker.project=team/proj", f"tracker.group={LONG}"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    tracker = check_experiment(read_stored_config(tmp_path / "config.yaml")).tracker
    assert (tracker.project, tracker.group) == ("team-proj", LONG[:128])
