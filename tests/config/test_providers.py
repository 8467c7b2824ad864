"""conf/provider: every provider is complete, and one that a user adds in a YAML of their own needs no code."""

import json
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from sia_runner.config.components import HostedProvider
from sia_runner.config.experiment import check_experiment
from sia_runner.gateway.prices import price_of
from sia_runner.system import bundled_folder
from tests.provider import Answer, ProviderServer

CONF = bundled_folder("conf")
SHIPPED = ["anthropic", "openai", "gemini", "openrouter", "together", "nebius", "ollama", "vllm", "custom"]
CUSTOM = ["base_url=http://localhost:9/v1", "model=m"]


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True, throw_on_missing=True)


def provider(name, *keys):
    own = CUSTOM if name == "custom" else []
    return check_experiment(composed(f"provider={name}", *(f"provider.{key}" for key in (*own, *keys)))).provider


def test_every_provider_that_is_promised_is_there():
    assert {path.stem for path in (CONF / "provider").glob("*.yaml")} >= {"offline", *SHIPPED}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_provider_is_complete(name):
    hosted = provider(name)
    assert isinstance(hosted, HostedProvider) and hosted.name == name
    assert hosted.base_url and not hosted.base_url.endswith("/") and hosted.api in ("openai", "anthropic")
    local = hosted.base_url.startswith("http://localhost:")
    assert local or hosted.base_url.startswith("https://")
    assert local == (hosted.key is None)


@pytest.mark.parametrize("name", ["anthropic", "openai", "gemini", "together", "nebius", "ollama", "vllm"])
def test_the_default_models_price_is_known(name):
    assert price_of(provider(name)) is not None


@pytest.mark.parametrize("name", ["openrouter", "custom"])
def test_where_the_price_depends_on_who_serves_it_is_not_guessed(name):
    assert price_of(provider(name)) is None
    assert price_of(provider(name, "prices={input: 1.0, output: 2.0}")).output == 2.0


def test_custom_says_what_it_needs_and_follows_the_protocol_that_is_chosen():
    assert provider("custom").litellm == "openai"
    assert provider("custom", "api=anthropic").litellm == "anthropic"


def test_each_role_may_have_a_provider_of_its_own():
    config = check_experiment(
        composed(
            "meta_agent=llm",
            "provider@meta_agent.provider=anthropic",
            "provider@target_agent.provider=vllm",
            "target_agent.provider.model=my-model",
        )
    )
    assert config.meta_provider.name == "anthropic" and config.target_provider.model == "my-model"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("base_url=localhost:8000", "base_url=localhost:8000"),
        ("base_url=null", "api=openai.*base_url"),
        ("key=sk-123456", "pattern"),
        ("prices={input: -1, output: 1}", "equal to 0"),
        ("timeout=0", "greater than 0"),
    ],
)
def test_a_wrong_value_is_refused(key, says):
    with pytest.raises(ValidationError, match=says):
        provider("custom", key)


MINE = """\
# The group's own server.
name: mine
kind: hosted
api: openai
litellm: openai
model: scripted
base_url: {base_url}
key: SIA_TEST_KEY
prices: {{input: 1, output: 2}}
"""


def test_a_provider_of_the_users_own_yaml_needs_no_code(tmp_path):
    with ProviderServer(lambda request: Answer("hello")) as server:
        (tmp_path / "provider").mkdir()
        (tmp_path / "provider" / "mine.yaml").write_text(MINE.format(base_url=server.base_url))
        command = [sys.executable, "-m", "sia_runner", "estimate", "--config-dir", str(tmp_path), "--json"]
        command.append("provider=mine")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["roles"]["target"]["model"] == "scripted"
        assert server.tally.calls == 0
    help_ = subprocess.run(
        [sys.executable, "-m", "sia_runner", "--help", "--config-dir", str(tmp_path)], capture_output=True, text=True
    )
    assert "The group's own server." in help_.stdout


def refused(tmp_path, *args, **env):
    command = [sys.executable, "-m", "sia_runner", *args, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env={**os.environ, **env}
    )
    assert done.returncode == 2 and not (tmp_path / "run").exists(), done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_run_without_its_key_is_refused_in_one_line(tmp_path):
    line = refused(tmp_path, "provider=anthropic", ANTHROPIC_API_KEY="")
    assert line == (
        "refused: provider anthropic: no key; set ANTHROPIC_API_KEY in the environment or provider.key_file"
    )


def test_a_run_with_a_dollar_limit_and_no_price_is_refused_in_one_line(tmp_path):
    keys = ["provider=custom", *(f"provider.{key}" for key in CUSTOM), "budget.usd=1"]
    assert refused(tmp_path, *keys).startswith(
        "refused: provider custom: prices of m are not known; give provider.prices"
    )
