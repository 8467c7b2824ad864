"""Tests that the facts of an experiment are picked key by key."""

import json

from sia_runner.store.run_directory import RunDir
from sia_runner.tracking import facts

HOSTED = {"name": "anthropic", "kind": "hosted", "model": "sonnet", "base_url": "https://private.example/v1",
          "key": "MY_KEY", "key_file": "/home/me/key", "headers": {"x-secret": "s3cret"}}  # fmt: skip
CONFIG = {
    "task": {"name": "t", "dir": "/home/me/tasks"},
    "meta_agent": {"name": "llm", "provider": None},
    "target_agent": {"name": "auto", "kind": "auto", "provider": None, "policy": {"base": "/models/my-base"}},
    "provider": HOSTED,
    "trainer": {"name": "none", "kind": "none", "mode": "SIA-H", "_target_": "x"},
    "search": {"name": "greedy"},
    "sandbox": {"name": "auto"},
    "compute": {"name": "slurm", "resources": {"default": {"account": "money"}}},
    "tracker": {"name": "wandb", "tags": ["mine"]},
    "max_gen": 3,
    "seed": 7,
    "split_seed": 0,
    "budget": {"usd": 5},
}


def told(tmp_path, config):
    run = RunDir(tmp_path)
    run.lock.write_text(json.dumps({"git": "abc", "overrides": ["provider.key_file=/home/me/key"], "host": "node1"}))
    run.summary.write_text(json.dumps({"mode": "SIA-H", "metric": {"name": "accuracy", "higher_is_better": True}}))
    return facts.experiment_facts(run, config)


def test_no_path_address_key_or_command_is_told(tmp_path):
    text = json.dumps(told(tmp_path, CONFIG))
    for private in ("/home/me", "private.example", "MY_KEY", "s3cret", "money", "node1", "/models"):
        assert private not in text
    assert '"git": "abc"' in text


def test_the_mode_is_that_of_the_summary_and_not_the_configured_one(tmp_path):
    configured = CONFIG | {"trainer": CONFIG["trainer"] | {"mode": "SIA-W+H"}}
    assert told(tmp_path, configured)["mode"] == "SIA-H"


def test_models_and_tags_say_who_was_called():
    assert facts.model_names(CONFIG) == {"meta": "anthropic/sonnet", "target": "anthropic/sonnet"}
    assert facts.run_tags(CONFIG, "SIA-H") == ["t", "SIA-H", "seed-7", "anthropic/sonnet", "mine"]


def test_a_trained_policy_is_named_by_its_base_and_not_by_its_folder():
    trained = CONFIG | {"trainer": CONFIG["trainer"] | {"kind": "online", "mode": "SIA-W+H"}, "provider": {"name": "o"}}
    assert facts.model_names(trained) == {"target": "my-base"}


def test_runs_of_a_sweep_are_one_group_and_others_none(tmp_path):
    run = tmp_path / "my-sweep" / "deep" / "0-t-seed1"
    run.mkdir(parents=True)
    assert facts.run_group(RunDir(run), CONFIG) is None
    (tmp_path / "my-sweep" / "plan.json").write_text("{}")
    assert facts.run_group(RunDir(run), CONFIG) == "my-sweep"
    assert facts.run_group(RunDir(run), CONFIG | {"tracker": {"group": "given"}}) == "given"


def test_long_names_of_folders_are_cut_where_they_do_not_tell_runs_apart_and_stand_whole_in_the_config(tmp_path):
    runs = [RunDir(tmp_path / ("s" * 140) / f"{'long-' * 28}seed={seed}") for seed in (1, 2)]
    for run in runs:
        run.path.mkdir(parents=True)
    (runs[0].path.parent / "plan.json").write_text("{}")
    names = [facts.shorten(run.path.name) for run in runs]
    assert names[0] != names[1] and {len(name) for name in names} == {128}
    assert len(facts.run_group(runs[0], CONFIG)) == 128
    sent = told(runs[0].path, CONFIG)
    assert (sent["run"], sent["sweep"]) == (runs[0].path.name, "s" * 140)


def test_the_number_of_a_persons_notes_is_told_and_their_words_are_not(tmp_path):
    notes = [{"n": 2, "text": "look at row 17: the gold is wrong", "by": "ann", "at": ""}]
    run = RunDir(tmp_path)
    told(tmp_path, CONFIG)
    run.summary.write_text(json.dumps(json.loads(run.summary.read_text()) | {"directions": notes}))
    sent = facts.experiment_facts(run, CONFIG)
    assert sent["directed"] == 1 and "row 17" not in json.dumps(sent) and "ann" not in json.dumps(sent)
    assert "directed" in facts.run_tags(CONFIG, "SIA-H", 1) and "directed" not in facts.run_tags(CONFIG, "SIA-H")
