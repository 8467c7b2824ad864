"""Every YAML of every group composes and passes the schema; what is wrong is said in one line."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from sia_runner.config.base import load_class
from sia_runner.config.composition import explain_validation_error, register_resolvers
from sia_runner.config.experiment import check_experiment
from sia_runner.config.help import group_choices
from sia_runner.system import bundled_folder

register_resolvers()
CONF = bundled_folder("conf")
CHOICES = [(group, choice) for group, descriptions in group_choices([CONF]).items() for choice in descriptions]
# What a choice cannot know itself and says so with `???`.
ENDPOINT = ["provider=custom", "provider.base_url=http://127.0.0.1:9/v1", "provider.model=m"]
NEEDS = {
    ("task", "custom"): ["task.dir=/x"],
    ("task", "mlebench"): ["task.competition=spaceship-titanic"],
    ("task", "inspect"): ["task.name=package/task"],
    ("task", "harbor"): ["task.dir=somewhere"],
    ("task", "denoising_real"): ["task.data.local=/x"],
    ("task", "gpqa"): ENDPOINT,
    ("task", "arithmetic"): ENDPOINT,
    ("meta_agent", "replay"): ["meta_agent.dir=/x"],
    ("sandbox", "ssh"): ["sandbox.host=h"],
    ("policy", "vllm"): ["target_agent.policy.base=/x", "target_agent.policy.base_url=http://127.0.0.1:9/v1"],
    ("policy", "tinker"): ["target_agent.policy.base=x/y"],
    ("experiment", "paper_denoising"): ["target_agent.policy.base_url=http://127.0.0.1:9/v1", "task.data.local=x"],
    ("experiment", "paper_trimul"): ["target_agent.policy.base_url=http://127.0.0.1:9/v1", "sandbox.image=x"],
    ("experiment", "control"): ["control.seconds=10"],
    ("provider", "custom"): ENDPOINT[1:],
    ("target_agent", "model"): ENDPOINT,
    **{("compute/site", name): ["compute=slurm"] for name in ("none", "local", "campus_qos")},
    ("compute/site", "campus_accounts"): ["compute=slurm", "compute.resources.default.account=x"],
    **{("meta_agent", name): ENDPOINT for name in ("llm", "claude_code", "openhands", "pydantic_ai")},
}


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True, throw_on_missing=True)


def faults(*overrides):
    config = composed(*overrides)
    with pytest.raises(ValidationError) as caught:
        check_experiment(config)
    return explain_validation_error(caught.value, config)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids="/".join)
def test_every_choice_of_every_group_composes_passes_the_schema_and_names_a_class_that_exists(group, choice):
    override = f"+{group}={choice}" if group == "experiment" else f"{group}={choice}"
    config = check_experiment(composed(override, *NEEDS.get((group, choice), [])))
    part = getattr(config, group, None)
    if hasattr(part, "target"):
        load_class(part.target)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids="/".join)
def test_every_choice_says_in_its_first_line_what_it_is_for_and_is_short(group, choice):
    text = (
        (CONF / group / f"{choice}.yaml")
        .read_text()
        .removeprefix("# @package _global_\n")
        .removeprefix("# @package target_agent.policy\n")
    )
    assert text.startswith("# ") and len(text.partition("\n")[0]) > 15
    assert len(text.splitlines()) <= 50 and "TODO" not in text


def test_the_default_experiment_is_the_smoke_task_without_weights():
    config = check_experiment(composed())
    assert config.task.name == "smoke" and config.trainer.mode == "SIA-H"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("max_gen=0", "max_gen=0: input should be greater than or equal to 1"),
        ("max_gen=ten", "max_gen=ten: input should be a valid integer"),
        ("max_gen='3'", "max_gen=3: input should be a valid integer"),
        ("seed=-1", "seed=-1: input should be greater than or equal to 0"),
        ("task.splits.val=0", "task.splits: splits.val must be above 0: candidates are selected on it"),
        ("task.splits.val=1.5", "task.splits.val=1.5: input should be less than 1"),
        (
            "task.splits.dev=0.9",
            "task.splits: splits.dev + splits.val + splits.test must stay below 1, or be 1 to learn nothing",
        ),
        ("search.accept.rule=coin", "search.accept.rule=coin: input should be 'ladder', 'mcnemar' or 'bootstrap'"),
        ("meta_agent.trials=0", "meta_agent.trials=0: input should be greater than or equal to 1"),
        ("budget.minutes=0", "budget.minutes=0: input should be greater than 0"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_value_and_what_is_allowed(override, line):
    assert faults(override) == [line]


def test_an_unknown_key_names_the_nearest_one():
    (line,) = faults("+sandbox.memory_gb=4")
    assert line.startswith("sandbox.memory_gb=4: no such key; did you mean 'memory_mb'?")
    (line,) = faults("+task.splits.vall=0.2")
    assert line.startswith("task.splits.vall=0.2: no such key; did you mean 'val'?")
    (line,) = faults("+meta_agent.trails=4")
    assert line.startswith("meta_agent.trails=4: no such key; did you mean 'trials'?")


def test_every_fault_is_said_not_only_the_first():
    assert len(faults("max_gen=0", "seed=-1", "+budget.eur=3")) == 3


def test_a_weights_trainer_needs_a_target_agent_that_calls_a_model():
    lines = faults("trainer=ppo", "target_agent=script")
    assert lines == [
        "trainer=ppo trains the model that a harness calls, but target_agent=script calls none; "
        "allowed with it: trainer=none"
    ]


def test_a_target_agent_that_calls_a_model_needs_a_provider_that_serves_one():
    (line,) = faults("target_agent=model")
    assert line.startswith("target_agent=model calls a model, but provider=offline serves none; give provider=")
    assert check_experiment(composed("target_agent=model", *ENDPOINT)).calls_model


def test_the_default_target_agent_calls_a_model_exactly_where_there_is_one():
    assert not check_experiment(composed()).calls_model
    assert check_experiment(composed(*ENDPOINT)).calls_model
    assert not check_experiment(composed("target_agent=script", *ENDPOINT)).calls_model


def test_a_proposer_that_is_a_model_needs_a_provider_and_may_have_one_of_its_own():
    (line,) = faults("meta_agent=llm")
    assert line.startswith("meta_agent=llm is a language model, but provider=offline serves none; give provider=")
    config = check_experiment(composed("meta_agent=llm", "provider@meta_agent.provider=anthropic"))
    assert config.meta_provider.name == "anthropic" and config.target_provider.kind == "offline"
    config = check_experiment(composed("meta_agent=llm", *ENDPOINT, "provider@meta_agent.provider=anthropic"))
    assert (config.meta_provider.name, config.target_provider.name) == ("anthropic", "custom")


def test_a_task_that_cannot_be_answered_without_a_model_says_so():
    (line,) = faults("task=gpqa")
    assert line.startswith("task=gpqa cannot be answered without a model, but provider=offline")


def test_parallel_proposals_need_dev_questions_to_choose_by():
    (line,) = faults("task=custom", "task.dir=/x", "search.proposals_per_generation=3")
    assert line.startswith(
        "search.proposals_per_generation=3 chooses among proposals on dev questions, but task=custom has none"
    )


def test_a_proposer_of_the_users_own_keeps_its_own_keys():
    config = check_experiment(composed("meta_agent._target_=my_lab.proposers.Mine", "+meta_agent.temperature=0.7"))
    assert config.meta_agent.model_extra["temperature"] == 0.7


# --- as a Hydra user types it: the real command ---------------------------------------------------------------


def run(*args, **kwargs):
    command = [sys.executable, "-m", "sia_runner", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **kwargs)


def refused(tmp_path, *args):
    done = run(*args, cwd=tmp_path)
    assert (done.returncode == 2 and not (tmp_path / "runs").exists()) or not any((tmp_path / "runs").iterdir())
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task=lawbnech", "refused: task=lawbnech: no such choice; did you mean 'lawbench'?"),
        ("max_genn=3", "refused: max_genn: no such key or group; did you mean 'max_gen'?"),
        ("task.dir=x", "refused: task.dir: not in this YAML; add it: +task.dir=…"),
        ("max_generations=2", "refused: max_generations: no such key or group; did you mean 'max_gen'?"),
        ("generations=2", "refused: generations: no such key or group; did you mean 'max_gen'?"),
        ("timeout=2", "refused: timeout: no such key or group; see --help"),
        ("memory_mb=2", "refused: memory_mb: no such key or group; did you mean 'sandbox.memory_mb'?"),
        ("taks=smoke", "refused: taks: no such key or group; did you mean 'task'?"),
        ("task=custom", "refused: task.dir: a value is needed; give task.dir=…"),
        ("trainer=pppo", "refused: trainer=pppo: no such choice; did you mean 'ppo'?"),
        ("max_gen=", "refused: max_gen="),
        ("max_gen=[", "refused: "),
    ],
)
def test_a_typing_mistake_is_one_line_and_exit_code_2(tmp_path, override, line):
    assert refused(tmp_path, override).startswith(line)


def test_help_shows_every_group_and_choice_and_those_of_a_config_folder_of_the_user(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("# My own task.\nname: mine\n")
    output = run("--help", "--config-dir", str(tmp_path)).stdout
    for group, choice in [*CHOICES, ("task", "mine")]:
        assert f"  {group}\n" in output and f"    {choice} " in output
    assert "My own task." in output


def test_cfg_job_prints_the_composed_configuration():
    done = run("task=lawbench", "max_gen=7", "--cfg", "job")
    config = OmegaConf.create(done.stdout)
    assert done.returncode == 0 and config.task.name == "lawbench" and config.max_gen == 7


def test_a_config_folder_of_the_user_joins_by_hydras_search_path(tmp_path):
    (tmp_path / "search").mkdir()
    text = (CONF / "search" / "greedy.yaml").read_text() + "accept: {level: 0.01}\n"
    (tmp_path / "search" / "strict.yaml").write_text(text)
    done = run("--config-dir", str(tmp_path), "search=strict", "--cfg", "job")
    assert OmegaConf.create(done.stdout).search.accept.level == 0.01


def test_two_config_folders_join_both(tmp_path):
    for name, group in (("first", "search"), ("second", "provider")):
        (tmp_path / name / group).mkdir(parents=True)
        shipped = CONF / group / ("greedy.yaml" if group == "search" else "offline.yaml")
        (tmp_path / name / group / "mine.yaml").write_text(shipped.read_text())
    folders = [f"--config-dir={tmp_path / name}" for name in ("first", "second")]
    done = run(*folders, "search=mine", "provider=mine", "seed=7", "--cfg", "job")
    assert done.returncode == 0 and OmegaConf.create(done.stdout).seed == 7, done.stderr


def test_multirun_gives_each_run_its_own_directory_and_the_worst_exit_code(tmp_path):
    done = run("-m", "task=smoke", "max_gen=1", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert sorted(p.name for p in sweep.iterdir() if p.name[0].isdigit()) == [
        "0-smoke-SIA-H-seed0",
        "1-smoke-SIA-H-seed1",
    ]
    assert run("-m", "task=smoke", "max_gen=0,1", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (
            ["search=pareto", "task=custom", "task.dir=/x"],
            "search=pareto compares candidates on dev questions, but task=custom",
        ),
        (["search.proposer_models=[a,b]"], "but meta_agent=recipes calls no model; allowed with it: []"),
        (["meta_agent=llm", *ENDPOINT, "search.proposer_models=[a]"], "allowed are two or more different models"),
        (["meta_agent=llm", *ENDPOINT, "search.proposer_models=[a,b,a]"], "allowed are two or more different models"),
        (
            ["meta_agent=llm", *ENDPOINT, "search.proposer_models=[a,b]", "provider.prices={input: 1, output: 1}"],
            "provider.prices are those of one model",
        ),
        (
            ["meta_agent=llm", *ENDPOINT, "+experiment=control", "control.tokens=9", "search.proposer_models=[a,b]"],
            "is feedback, which control.arm=votes has not; allowed: []",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_in_a_line(overrides, why):
    assert why in "\n".join(faults(*overrides))


def test_of_several_models_the_first_is_the_proposers_and_the_others_are_beside_it():
    config = check_experiment(composed("meta_agent=llm", *ENDPOINT, "search.proposer_models=[a,b,c]"))
    assert (config.meta_provider.model, config.target_provider.model) == ("a", "m")
    assert [(other.model, other.base_url) for other in config.other_meta_providers] == [
        ("b", config.meta_provider.base_url),
        ("c", config.meta_provider.base_url),
    ]


def test_mcnemar_needs_a_metric_that_is_decided_question_by_question():
    (line,) = faults("search.accept.rule=mcnemar", "task.metric.verifier=auc", '+task.metric.choices=["no","yes"]')
    assert line.startswith("search.accept.rule=mcnemar counts single questions") and "ladder, bootstrap" in line


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["+experiment=control"], "control has no budget"),
        (["+experiment=control", "control.tokens=9", "search.parallel_candidates=2"], "search.parallel_candidates=2"),
        (["control={arm: votes, tokens: 9}", "trainer=grpo"], "allowed with it: trainer=none"),
        (["trainer.mode=control-votes"], "which +experiment=control sets; allowed: SIA-H"),
    ],
)
def test_a_control_arm_has_a_budget_its_own_label_and_no_trainer(overrides, why):
    assert why in "\n".join(faults(*overrides))
