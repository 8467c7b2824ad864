"""policy=tinker: what the protocol cannot say is refused by name before it costs, and prices are never guessed."""

import pytest
from pydantic import ValidationError

from sia_runner.config.composition import register_resolvers
from sia_runner.config.experiment import check_experiment
from sia_runner.config.training import PolicyConfig
from sia_runner.gateway.prices import price_of
from sia_runner.policy.backend import policy_provider, tinker_client, training_prices
from sia_runner.wire.grants import ModelsError
from sia_runner.wire.providers import is_private
from tests.config.test_providers import composed

TINKER = ["task=lawbench", "policy=tinker", "target_agent.policy.base=openai/gpt-oss-120b"]


def policy(base: str = "openai/gpt-oss-120b", url: str | None = None, **settings: object) -> PolicyConfig:
    return PolicyConfig.model_validate({"base": base, "backend": "tinker", "base_url": url, "tinker": settings})


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    register_resolvers()
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    monkeypatch.delenv("TINKER_API_KEY", raising=False)


@pytest.mark.parametrize("trainer", ["grpo", "entropic", "reinforce", "best_of_n", "dpo", "auto"])
def test_a_trainer_has_the_alpha_of_the_services(trainer):
    config = check_experiment(composed(*TINKER, f"trainer={trainer}")).trainer
    algorithms = config.algorithms.values() if trainer == "auto" else [config]
    assert {(algorithm.lora.alpha, algorithm.lora.rank) for algorithm in algorithms} == {(32, 32)}
    here = check_experiment(composed("task=lawbench", "trainer=grpo")).trainer
    assert here.lora.alpha == 64


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer=ppo"], "trainer=ppo needs a value head.*grpo, entropic, reinforce, best_of_n, dpo"),
        (["trainer=grpo", "trainer.lora.alpha=64"], r"trainer\.lora\.alpha=64 .*allowed .*: 32"),
        (["trainer=grpo", "trainer.lora.dropout=0.1"], r"trainer\.lora\.dropout=0\.1 .*: 0"),
        (["trainer=grpo", "trainer.temperature=0.7"], r"trainer\.temperature=0\.7 .*: 1"),
        (["trainer=grpo", "trainer.processes=2"], r"trainer\.processes=2 .*: 1"),
        (["trainer=grpo", "trainer.lora.save=[embed_tokens]"], r"trainer\.lora\.save=.*embed_tokens"),
        (["trainer=auto", "trainer.algorithms.dpo.lora.alpha=16"], r"trainer\.algorithms\.dpo\.lora\.alpha=16"),
        (["trainer=grpo", "target_agent.policy.trust_base=true"], r"trust_base=true .*allowed .*: false"),
        (["trainer=grpo", "target_agent.policy.base=tiny"], r"base=tiny is built by the runner"),
        (["trainer=grpo", "target_agent.policy.base_url=localhost:8000"], r"must begin with http"),
    ],
)
def test_what_the_protocol_cannot_say_is_refused(overrides, words):
    with pytest.raises(ValidationError, match=words):
        check_experiment(composed(*TINKER, *overrides))


def test_the_papers_lawbench_is_trained_by_a_service_and_says_what_differs():
    config = check_experiment(composed("+experiment=paper_lawbench"))
    spec, trainer = config.target_agent.policy, config.trainer
    assert (spec.backend, spec.base, spec.base_url) == ("tinker", "openai/gpt-oss-120b", None)
    assert (trainer.algorithm, trainer.lora.rank, trainer.learning_rate) == ("grpo", 32, 4e-5)
    assert len(config.notes) == 3 and all(note.startswith("differs from the paper: ") for note in config.notes)


def test_hosted_prices_are_those_of_the_table_and_others_are_unknown():
    known = policy()
    assert training_prices(known).train == 0.52
    rates = price_of(policy_provider(known))
    assert (rates.input, rates.output) == (0.18, 0.44)
    for unknown in (policy("some/other"), policy(url="https://tinker.example.com/v1")):
        assert training_prices(unknown) is None and price_of(policy_provider(unknown)) is None
    own = {"prefill": 1.0, "sample": 2.0, "train": 3.0}
    assert training_prices(policy("some/other", prices=own)).sample == 2.0


@pytest.mark.parametrize(
    "url", ["http://localhost:8000", "http://127.0.0.1:8", "http://10.1.2.3:8000", "http://node7:8000"]
)
def test_a_server_of_the_private_network_sends_no_bill_and_asks_for_no_key(url):
    assert is_private(url) and training_prices(policy("some/other", url)).train == 0.0
    assert tinker_client(policy(url=url)).url == url


def test_the_hosted_service_wants_a_key_which_the_environment_or_a_file_has(monkeypatch, tmp_path):
    with pytest.raises(ModelsError, match="set TINKER_API_KEY .* or target_agent.policy.tinker.key_file"):
        tinker_client(policy())
    (tmp_path / "key").write_text("tml-of-a-file\n")
    tinker_client(policy(key_file=str(tmp_path / "key")))
    monkeypatch.setenv("TINKER_API_KEY", "tml-of-the-environment")
    tinker_client(policy())
