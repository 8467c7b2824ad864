"""Training through a server with vLLM's endpoints (tests/policy/vllm_server.py) is training in this process."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

torch = pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytest.importorskip("trl", reason="the weights lever needs the extra `training`")
pytest.importorskip("aiohttp", reason="the models extra is not installed")

from sia_runner.config.training import PolicyConfig
from sia_runner.policy import lora
from sia_runner.policy.engine import (
    PolicyEngine,
    RequestBatcher,
)
from sia_runner.policy.remote import RequestForwarder
from sia_runner.policy.vllm import VllmPolicy
from sia_runner.records import OutcomeKind, Trajectory
from sia_runner.training import drivers
from sia_runner.training.batch import derive_seed
from sia_runner.wire.policy import PolicyError, PolicyRequest
from tests.policy.checkpoints import generate, no_texts
from tests.policy.vllm_server import VllmServer
from tests.training import toy
from tests.training.toy_base import on_disk, text_of


@dataclass
class Asking:
    """Rolls out the toy by requests for the live weights, as the gateway makes them."""

    answering: Any
    versions: list[set[str]] = field(default_factory=list)

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        wanted = [(unit, sample) for unit in units for sample in range(samples)]
        answers = [answer.result(60) for answer in [self._ask(*one, step, temperature) for one in wanted]]
        self.versions.append({answer.adapter for answer in answers})
        return [self._rewarded(*one, answer) for one, answer in zip(wanted, answers, strict=True)]

    def _ask(self, unit: str, sample: int, step: int, temperature: float) -> Any:
        messages = ({"role": "user", "content": text_of(unit)},)
        return self.answering.submit(PolicyRequest(messages, 2, temperature, seed=derive_seed(step, unit, sample)))

    @staticmethod
    def _rewarded(unit: str, sample: int, sampled: Any) -> Trajectory:
        assert sampled.prompt_ids == toy.prompt_of(unit)
        right = sampled.completion_ids[0] == toy.answer_to(sampled.prompt_ids)
        kind = OutcomeKind.CORRECT if right else OutcomeKind.WRONG
        return Trajectory(unit, sample, (sampled,), float(right), kind)


@pytest.fixture
def base(warmed, tmp_path) -> Path:
    return on_disk(warmed, tmp_path / "base")


def engine(base: Path, folder: Path) -> PolicyEngine:
    return PolicyEngine(PolicyConfig(base=str(base), device="cpu"), folder, no_texts)


@pytest.fixture
def server(base, tmp_path):
    (tmp_path / "server").mkdir()
    started = VllmServer(engine(base, tmp_path), tmp_path / "server")
    yield started
    started.close()


def in_process(base: Path, folder: Path) -> RequestBatcher:
    return RequestBatcher(lambda: engine(base, folder))


def at(server: VllmServer, base: Path, folder: Path) -> RequestForwarder:
    spec = PolicyConfig(base=str(base), backend="vllm", base_url=server.url, device="cpu")
    return RequestForwarder(lambda: VllmPolicy(spec, folder / "served", lambda: PolicyEngine(spec, folder, no_texts)))


def trained(answering: Any, folder: Path, algorithm: Any, start: Path | None = None) -> tuple[Any, Any, Asking]:
    policy, roll = answering.start(), Asking(answering)
    one = toy.assignment(policy, algorithm, folder, roll=roll, start=start)
    train = drivers.train
    return one, train(one), roll


def chance(base: Path, folder: Path, adapter: Path) -> float:
    """P(right answer) on held-out prompts, with the adapter merged into a fresh base."""
    policy = engine(base, folder)
    return toy.chance(lora.merge_adapter(policy.model, adapter, policy.base_sha256), toy.HELD_OUT)


def test_an_adapter_is_learned_through_the_server_equal_to_that_of_this_process(base, server, tmp_path, warmed):
    algorithm = toy.settings("grpo", steps=16, learning_rate=2e-3)
    here, there = in_process(base, tmp_path), at(server, base, tmp_path)
    one, done, _ = trained(here, tmp_path / "here", algorithm)
    other, also, roll = trained(there, tmp_path / "there", algorithm)
    assert also.reward == pytest.approx(done.reward, abs=0.05)
    before = toy.chance(warmed, toy.HELD_OUT)
    learned, elsewhere = (chance(base, tmp_path, assignment.out) for assignment in (one, other))
    assert before < 0.5 and learned > before + 0.3
    assert elsewhere == pytest.approx(learned, abs=0.02)
    assert roll.versions == [{f"base+{step}"} for step in range(1, 17)], "each step is rolled out by its own weights"
    here.close()
    there.close()
    assert server.adapters == {} and not list((tmp_path / "served").iterdir())


def test_training_goes_on_from_an_adapter_and_the_server_answers_with_the_new_one_afterwards(base, server, tmp_path):
    first = toy.settings("grpo", steps=8, learning_rate=2e-3)
    answering = at(server, base, tmp_path)
    one, _, _ = trained(answering, tmp_path / "one", first)
    policy = answering.start()
    version = policy.use(one.out)
    two, _, roll = trained(answering, tmp_path / "two", first, start=one.out)
    assert roll.versions[0] == {f"{version}+1"}
    assert chance(base, tmp_path, two.out) > chance(base, tmp_path, one.out) + 0.05
    policy.use(two.out)
    live = engine(base, tmp_path)
    live.use(two.out)
    asks = [PolicyRequest(({"role": "user", "content": text_of(unit)},), 2) for unit in toy.HELD_OUT[:16]]
    answers = [answering.submit(ask).result(60) for ask in asks]
    assert [one.completion_ids for one in answers] == [one.completion_ids for one in generate(live, asks)]
    assert {one.adapter for one in answers} == {policy.version} == {live.version}
    answering.close()


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_weights_of_its_checkpoint_at_the_server(base, server, tmp_path):
    """The first rollouts after a resume are drawn from what was trained before it, not from the base."""
    algorithm = toy.settings("grpo", steps=10, learning_rate=2e-3, checkpoint_every=5)
    answering = at(server, base, tmp_path)

    class Killed(Exception):
        pass

    def kill(line: str) -> None:
        if line.startswith("step 8"):
            raise Killed

    policy = answering.start()
    one = toy.assignment(cast(Any, policy), algorithm, tmp_path / "run", roll=Asking(answering), say=kill)
    with pytest.raises(Killed):
        drivers.train(one)
    _, done, roll = trained(answering, tmp_path / "run", algorithm)
    assert done.steps == 10 and len(roll.versions) == 5
    whole = at(server, base, tmp_path)
    trained(whole, tmp_path / "whole", algorithm)
    resumed, uninterrupted = (chance(base, tmp_path, tmp_path / name / "adapter") for name in ("run", "whole"))
    assert resumed == pytest.approx(uninterrupted, abs=0.02)
    answering.close()
    whole.close()


def test_a_server_that_answers_without_the_adapter_is_refused_after_the_first_step(base, server, tmp_path):
    """As a proxy does that drops the adapter's name: it is loaded, and the base answers."""
    ask, score = server._ask, server._prompt_logprobs
    server._ask = lambda body: replace(ask(body), weights=None)
    server._prompt_logprobs = lambda body: score({**body, "model": server.name})
    answering = at(server, base, tmp_path)
    roll = Asking(answering)
    one = toy.assignment(cast(Any, answering.start()), toy.settings("grpo", steps=4), tmp_path / "run", roll=roll)
    with pytest.raises(PolicyError, match="without the adapter that was published: it shows -?0% of its effect"):
        drivers.train(one)
    assert len(roll.versions) == 1
    answering.close()


def test_offline_rounds_are_rolled_out_by_the_server_too(base, server, tmp_path, warmed):
    options = {"keep": 1, "rounds": 4, "batch": 16, "epochs": 20}
    algorithm = toy.settings("best_of_n", steps=40, prompts=64, group_size=8, options=options)
    answering = at(server, base, tmp_path)
    one, done, roll = trained(answering, tmp_path / "run", algorithm)
    assert done.steps == 40 and roll.versions == [{f"base+{number}"} for number in range(1, 5)]
    assert chance(base, tmp_path, one.out) > toy.chance(warmed, toy.HELD_OUT) + 0.2
    answering.close()
