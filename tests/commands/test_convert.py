"""sia-agent's profiles and providers become choices of our groups; what is wrong with one is one line."""

import json
from pathlib import Path

import pytest

from sia_runner.commands.convert import convert_files
from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment
from sia_runner.store.run_directory import RunDirectoryError
from tests.tasks.wheel import wheel_folder


def write(folder: Path, stem: str, **data) -> Path:
    path = folder / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def provider(folder, name="acme", **changes):
    data = {"provider_id": name, "name": "Acme", "client_kind": "openai", "base_url": "https://acme.example/v1/"}
    return write(folder / "providers", name, **(data | {"api_key_env": "ACME_API_KEY"} | changes))


def profile(folder, name="mine", **changes):
    data = {"profile_id": name, "name": "Mine", "model": "acme/large", "provider_id": "acme"}
    return write(folder / "profiles", name, **(data | changes))


def experiment(out: Path, *overrides: str):
    plain = compose_overrides(["task=smoke", "--config-dir", str(out), *overrides])
    assert plain is not None
    return check_experiment(plain)


def test_a_provider_is_a_choice_of_its_group(tmp_path):
    [line] = convert_files([provider(tmp_path)], tmp_path / "out")
    assert "provider=acme" in line
    config = experiment(tmp_path / "out", "provider=acme", "provider.model=large", "target_agent=model").target_provider
    assert (config.kind, config.api, config.base_url) == ("hosted", "openai", "https://acme.example/v1")
    assert (config.key, config.model) == ("ACME_API_KEY", "large")


def test_a_name_that_we_ship_already_is_given_another_so_that_theirs_is_taken(tmp_path):
    [line] = convert_files([provider(tmp_path, "openai", api_key_env="THEIR_KEY")], tmp_path / "out")
    assert "provider=sia_openai" in line
    config = experiment(tmp_path / "out", "provider=sia_openai", "provider.model=m", "target_agent=model")
    assert config.target_provider.key == "THEIR_KEY"


def test_a_profile_of_the_target_agent_is_an_experiment(tmp_path):
    provider(tmp_path)
    [line] = convert_files([profile(tmp_path)], tmp_path / "out")
    assert line.endswith("+experiment=mine")
    made = experiment(tmp_path / "out", "+experiment=mine")
    assert (made.target_agent.kind, made.target_provider.model) == ("model", "acme/large")
    assert made.provider.kind == "offline"  # of the proposer nothing was said


@pytest.mark.parametrize(
    ("given", "ours"), [("openhands", "openhands"), ("pydantic-ai", "pydantic_ai"), ("claude", "claude_code")]
)
def test_a_profile_of_the_meta_agent_names_who_proposes_and_its_provider(tmp_path, given, ours):
    kind = {"client_kind": "anthropic", "base_url": None} if given == "claude" else {}
    provider(tmp_path, **kind)
    convert_files([profile(tmp_path, agent_impl=given, model_canonical_name="large")], tmp_path / "out")
    made = experiment(tmp_path / "out", "+experiment=mine")
    assert (made.meta_agent.name, made.meta_provider.model) == (ours, "acme/large")
    assert made.meta_provider.api == ("anthropic" if given == "claude" else "openai")
    assert made.target_provider.kind == "offline"


def test_both_profiles_together_are_one_experiment(tmp_path):
    provider(tmp_path)
    convert_files([profile(tmp_path, "meta", agent_impl="openhands"), profile(tmp_path, "target")], tmp_path / "out")
    config = experiment(tmp_path / "out", "+experiment=[meta,target]")
    assert (config.meta_provider.name, config.target_provider.name) == ("meta-provider", "target-provider")


def test_names_that_only_claudes_cli_knows_are_written_as_the_api_knows_them(tmp_path):
    provider(tmp_path, client_kind="anthropic", base_url=None)
    convert_files([profile(tmp_path, agent_impl="claude", model="haiku")], tmp_path / "out")
    assert experiment(tmp_path / "out", "+experiment=mine").meta_provider.model == "claude-haiku-4-5-20251001"


@pytest.mark.parametrize("whole", [True, False])
def test_the_program_that_a_target_profile_starts_from_comes_along(tmp_path, whole):
    provider(tmp_path)
    agent = tmp_path / "profiles" / "agent"
    agent.mkdir(parents=True)
    (agent / "main.py").write_text("import helper\n")
    (agent / "helper.py").write_text("")
    source = {"source": "agent", "entrypoint": "main.py"} if whole else {"source": "agent/main.py"}
    convert_files([profile(tmp_path, agent_reference=source)], tmp_path / "out")
    made = tmp_path / "out" / "reference" / "mine"
    assert (made / "target_agent.py").read_text() == "import helper\n"
    assert (made / "helper.py").exists() == whole
    task = ["task=custom", f"task.dir={tmp_path}"]
    assert experiment(tmp_path / "out", *task, "+experiment=mine").task.reference == str(made)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": None, "provider_id": "nobody"}, "provider_id=nobody: no nobody.json given"),
        ({"agent_impl": "magic"}, "agent_impl=magic: allowed: claude, openhands, pydantic-ai"),
        ({"agent_impl": "claude"}, "talks to Anthropic only, not to acme"),
        ({"profile_id": "../up"}, "cannot be a file's name"),
        ({"agent_reference": {"source": "nowhere"}}, "no reference_target_agent.py in"),
        ({"agent_reference": 3}, 'must be "default" or an object'),
    ],
)
def test_a_profile_that_cannot_be_converted_is_one_line(tmp_path, changes, line):
    provider(tmp_path)
    with pytest.raises(RunDirectoryError) as refused:
        convert_files([profile(tmp_path, **changes)], tmp_path / "out")
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "JSON"),
        ("[]", "JSON"),
        ("{}", "api_key_env, client_kind, provider_id"),
    ],
)
def test_a_file_that_is_neither_is_one_line(tmp_path, text, line):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RunDirectoryError, match=line):
        convert_files([path], tmp_path / "out")


def test_all_profiles_and_providers_of_the_package_are_converted(tmp_path):
    defaults = wheel_folder(tmp_path) / "sia" / "defaults"
    lines = convert_files([defaults], tmp_path / "out")
    assert len(lines) == len(list(defaults.rglob("*.json"))) == 18
    for path in (tmp_path / "out" / "experiment").glob("*.yaml"):
        made = experiment(tmp_path / "out", f"+experiment={path.stem}")
        roles = [made.meta_provider, made.target_provider]
        assert [role.name for role in roles if role.kind == "hosted"] == [f"{path.stem}-provider"]
    gemini = experiment(tmp_path / "out", "+experiment=gemini-meta").meta_provider
    assert (gemini.model, gemini.litellm, gemini.key) == ("gemini-3.1-pro-preview", "gemini", "GEMINI_API_KEY")
    assert experiment(tmp_path / "out", "+experiment=gptoss-nebius-target").target_provider.litellm == "nebius"
