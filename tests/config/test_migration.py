"""Old names of keys and classes: a user is told the new name, and a stored configuration is read in today's names."""

import copy
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from sia_runner.config.base import load_class
from sia_runner.config.composition import (
    compose_overrides,
    explain_hydra_error,
    explain_validation_error,
    register_resolvers,
)
from sia_runner.config.experiment import check_experiment
from sia_runner.config.migration import (
    MOVED_CLASSES,
    RENAMED_KEYS,
    migrate,
    migrate_algorithm,
    migrate_overrides,
    read_stored_config,
    renamed_key,
)
from sia_runner.system import bundled_folder

register_resolvers()
OLD_NAMES = [
    (f"{section.replace('*', name)}.{old}", f"{section.replace('*', name)}.{new}")
    for section, renames in RENAMED_KEYS.items()
    for name in ("ppo", "train")
    if ("algorithms" in section) == (name == "ppo") or "*" not in section
    for old, new in renames.items()
]
ENDPOINT = ["provider=custom", "provider.base_url=http://127.0.0.1:9/v1", "provider.model=m"]


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(bundled_folder("conf"))):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(("old", "new"), sorted(set(OLD_NAMES)))
def test_an_old_key_on_the_command_line_is_refused_with_its_new_name(old, new):
    line = explain_hydra_error(ValueError(f"Could not override '{old}'."), [])
    assert line == f"{old}: renamed; use {new}=…"
    assert renamed_key(new) == new


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["task=arithmetic", "trainer=grpo", "+trainer.samples=4"],
         "trainer.samples=4: renamed; use trainer.group_size"),
        (["task=arithmetic", "trainer=dpo", "+trainer.questions=4"],
         "trainer.questions=4: renamed; use trainer.prompts"),
        (["task=arithmetic", "trainer=auto", "+trainer.algorithms.dpo.kl=1"],
         "trainer.algorithms.dpo.kl=1: renamed; use trainer.algorithms.dpo.kl_coefficient"),
        (["task=arithmetic", "trainer=ppo", "+trainer.early_stopping.zero_groups=null"],
         "trainer.early_stopping.zero_groups=null: renamed; use trainer.early_stopping.max_uniform_groups"),
        (["+task.said.prompt=x"], "task.said={'prompt': 'x'}: renamed; use task.warmup_format"),
        (["compute=slurm", "+compute.resources.run.where=job"],
         "compute.resources.run.where=job: renamed; use compute.resources.run.run_in"),
        (["+meta_agent.questions=4"], "meta_agent.questions=4: renamed; use meta_agent.trial_questions"),
        ([*ENDPOINT, "+provider.patience=4"], "provider.patience=4: renamed; use provider.max_wait_seconds"),
        (["meta_agent._target_=sia_runner.agents.recipes.Recipes"],
         "meta_agent._target_=sia_runner.agents.recipes.Recipes: moved; use sia_runner.proposers.recipes.Recipes"),
    ],
)  # fmt: skip
def test_an_old_name_in_a_yaml_is_refused_with_its_new_name(overrides, line):
    config = composed(*overrides)
    with pytest.raises(ValidationError) as caught:
        check_experiment(config)
    assert explain_validation_error(caught.value, config) == [line]


def test_the_command_refuses_an_old_key_in_one_line_before_it_starts(tmp_path):
    command = [sys.executable, "-m", "sia_runner", "trainer=grpo", "task=arithmetic", "trainer.samples=4"]
    done = subprocess.run([*command, f"hydra.run.dir={tmp_path / 'run'}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "refused: trainer.samples: renamed; use trainer.group_size=…\n")
    assert not (tmp_path / "run").exists()


def test_by_base_of_a_users_yaml_is_refused(capsys):
    assert compose_overrides(["trainer=ppo", "task=arithmetic", "trainer.steps=${by_base:1,2}"]) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "${preset:KEY}" in line


def test_presets_follow_the_policy_and_an_override_wins():
    tiny = composed("task=lawbench", "trainer=ppo")["trainer"]
    large = composed("task=lawbench", "trainer=ppo", "target_agent.policy.base=/models/x", "trainer.steps=7")["trainer"]
    assert (tiny["steps"], tiny["prompts_per_step"], tiny["learning_rate"]) == (48, 64, 2e-3)
    assert (large["steps"], large["prompts_per_step"], large["learning_rate"], large["lora"]["save"]) == (
        7,
        16,
        4e-5,
        [],
    )


def test_a_preset_trains_at_the_temperature_of_its_harnesses_and_a_service_at_1():
    here = composed("task=sentences", "trainer=grpo", "policy=smollm2")["trainer"]
    assert (here["temperature"], here["prompts_per_step"], here["early_stopping"]["max_kl"]) == (0.7, 16, 30)
    service = ["target_agent.policy.backend=tinker", "target_agent.policy.base=smollm2"]
    assert composed("task=sentences", "trainer=grpo", *service)["trainer"]["temperature"] == 1
    assert composed("task=lawbench", "trainer=grpo")["trainer"]["temperature"] == 1


@pytest.mark.parametrize("overrides", [[], ["task=lawbench", "trainer=auto"], ["task=arithmetic", "trainer=dpo"]])
def test_a_configuration_of_today_is_migrated_to_itself(overrides):
    stored = check_experiment(composed(*overrides)).model_dump(by_alias=True)
    assert migrate(copy.deepcopy(stored)) == stored


def test_a_stored_configuration_of_an_earlier_version_passes_the_schema(earlier_runs):
    for name in ("sia_h", "sia_wh"):
        stored = read_stored_config(earlier_runs / name / "config.yaml")
        assert migrate(stored) == stored
        config = check_experiment(stored)
        load_class(config.meta_agent.target)
    assert (config.trainer.group_size, config.trainer.prompts_per_step, config.trainer.early_stopping.max_kl) == (
        8,
        64,
        10,
    )


def test_every_moved_class_exists():
    for target in MOVED_CLASSES.values():
        load_class(target)


def test_offline_algorithms_are_told_by_kind_or_name():
    assert migrate_algorithm({"kind": "offline", "questions": 9, "collapse": None}) == {
        "kind": "offline",
        "prompts": 9,
        "early_stopping": None,
    }
    stored = {"trainer": {"algorithms": {"dpo": {"questions": 9}, "ppo": {"questions": 8}}}}
    algorithms = {"dpo": {"prompts": 9}, "ppo": {"prompts_per_step": 8}}
    assert migrate(stored) == {"trainer": {"algorithms": algorithms}}


def test_recorded_overrides_are_migrated():
    assert migrate_overrides(["trainer=dpo", "trainer.questions=4", "+compute.resources.run.where=job", "seed=1"]) == [
        "trainer=dpo",
        "trainer.prompts=4",
        "+compute.resources.run.run_in=job",
        "seed=1",
    ]
    assert migrate_overrides(["trainer=ppo", "trainer.questions=4"])[1] == "trainer.prompts_per_step=4"


def test_a_class_of_the_users_own_keeps_its_keys():
    stored = {"meta_agent": {"name": "mine", "_target_": "my.Proposer", "keep": 1, "questions": 2}}
    assert migrate(stored) == stored


def test_a_section_with_both_names_is_left_to_the_schema():
    assert migrate({"lever": {"latest": 1, "latest_fraction": 2}}) == {"lever": {"latest": 1, "latest_fraction": 2}}


def test_a_file_full_of_aliases_costs_nothing():
    bomb = {}
    for _ in range(60):
        bomb = {f"key_{at}": bomb for at in range(10)}
    assert migrate({"trainer": {"algorithms": bomb}, "task": bomb})["task"] == bomb
