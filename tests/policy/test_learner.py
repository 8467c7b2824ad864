"""The learner in this process: its gradient is that of the plain loss over the whole vocabulary, however it is cut."""

import copy
import json
import multiprocessing
import os
import random
import socket
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="the fused head is TRL's")

from sia_runner.config.training import LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.policy import fit
from sia_runner.policy.engine import PolicyEngine
from sia_runner.wire.adapter_files import read_adapter_origin
from sia_runner.wire.learning import ForwardPass, StepSettings, TokenWeights, TrainingRow
from sia_runner.wire.policy import PolicyError
from tests.policy.checkpoints import ask, checkpoint, generate, no_texts, spec
from tests.policy.test_lora import origin
from tests.training import toy

LORA = LoraSettings(rank=4, alpha=8)


def small_policy(**changes: Any) -> toy.ToyPolicy:
    return toy.ToyPolicy(toy.small_model(0, **{"initializer_range": 0.05, **changes}), toy.small_tokenizer())


@contextmanager
def learner_of(policy: Any, work: Path, lora: LoraSettings = LORA, critic: bool = False, start=None, **settings: Any):
    """A learner whose adapter has an effect: B is random, not zero as that of a new one."""
    with policy.learner(lora, start, 0, critic=critic, work=work, **settings) as learner:
        if start is None:
            disturb(policy.model)
        yield learner


def disturb(model: Any) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "lora_A" not in name:
                weight.add_(torch.randn_like(weight) * 0.02)


def rows_of(count: int, samples: int = 1, prompt: int = 6, seed: int = 0) -> list[TrainingRow]:
    """Prompts of different lengths with completions of different lengths."""
    dice = random.Random(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(dice.randrange(4, toy.VOCABULARY) for _ in range(length))

    prompts = [tokens(prompt + n % 4) for n in range(count)]
    return [TrainingRow(ids, tokens(1 + (n + 3 * k) % 5)) for n, ids in enumerate(prompts) for k in range(samples)]


def weights_of(rows: list[TrainingRow], seed: int = 1) -> list[np.ndarray]:
    """Weights of both signs, as advantages give them."""
    dice = np.random.default_rng(seed)
    return [dice.normal(size=len(row.completion_ids)) for row in rows]


def fixed(weights: list[np.ndarray], values: list[np.ndarray] | None = None) -> Any:
    def lower(part: ForwardPass) -> TokenWeights:
        own = None if values is None else [values[row] for row in part.rows]
        return TokenWeights([weights[row] for row in part.rows], own)

    return lower


def plain_logprobs(model: Any, row: TrainingRow, temperature: float = 1.0) -> Any:
    """One row at a time, from the logits of the whole vocabulary."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits_tv = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1] / temperature
    return logits_tv.log_softmax(-1).gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]


def gradient(model: Any) -> Any:
    """The gradient of the adapter, as one vector."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.cat(
        [torch.zeros(weight.numel()) if weight.grad is None else weight.grad.ravel() for weight in weights]
    )


def plain_gradient(model: Any, loss: Any) -> Any:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.cat([part.ravel() for part in torch.autograd.grad(loss, weights)])


def difference(one: Any, other: Any) -> float:
    return float((one - other).norm() / other.norm())


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "own prompts": ({}, {}, {"count": 7}),
    "shared prompts": ({}, {}, {"count": 3, "samples": 4, "prompt": 20}),
    "temperature": ({}, {"temperature": 0.7}, {"count": 3, "samples": 4, "prompt": 20}),
    "head and embeddings": ({}, {"lora": LoraSettings(rank=4, save=["embed_tokens", "lm_head"])}, {"count": 5}),
    "tied": ({"tie_word_embeddings": True}, {"lora": LoraSettings(rank=4, save=["embed_tokens"])}, {"count": 5}),
    "sliding window": ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, {}, {"count": 5}),
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_logprobs_and_gradient_are_those_of_the_plain_loss(name, tmp_path):
    changes, settings, shape = SETTINGS[name]
    policy, rows = small_policy(**changes), rows_of(**shape)
    weights, temperature = weights_of(rows), settings.get("temperature", 1.0)
    with learner_of(policy, tmp_path, **settings) as learner:
        expected = [plain_logprobs(policy.model, row, temperature) for row in rows]
        loss = sum((torch.tensor(w) * logprobs).sum() for w, logprobs in zip(weights, expected, strict=True))
        wanted = plain_gradient(policy.model, loss)
        (seen,) = learner.backward(rows, fixed(weights))
        assert difference(gradient(policy.model), wanted) < 1e-6
        for row, logprobs in zip(seen.rows, seen.logprobs, strict=True):
            assert logprobs == pytest.approx(expected[row].detach().numpy(), abs=1e-5)


@pytest.fixture
def policy() -> toy.ToyPolicy:
    return small_policy()


def small_chunks(monkeypatch: Any) -> None:
    monkeypatch.setattr(fit, "_MIN_PASS_TOKENS", 1)


@pytest.mark.parametrize("samples", [1, 4])
def test_chunks_add_up_to_the_whole(samples, policy, tmp_path, monkeypatch):
    rows = rows_of(6, samples, prompt=20)
    weights = weights_of(rows)
    with learner_of(policy, tmp_path, max_length=12) as learner:
        (whole,) = learner.backward(rows, fixed(weights))
        expected = gradient(policy.model)
        learner.close()
        small_chunks(monkeypatch)
        parts = learner.backward(rows, fixed(weights))
        assert len(parts) > 2 and sorted(row for part in parts for row in part.rows) == list(range(len(rows)))
        assert difference(gradient(policy.model), expected) < 1e-6
        assert sum(part.entropy or 0 for part in parts) == pytest.approx(whole.entropy, rel=1e-6)


def test_calls_add_up_until_the_step(policy, tmp_path):
    rows = rows_of(6)
    weights = weights_of(rows)
    with learner_of(policy, tmp_path) as learner:
        learner.backward(rows, fixed(weights))
        expected = gradient(policy.model)
        learner.close()
        learner.backward(rows[:2], fixed(weights[:2]))
        learner.backward(rows[2:], fixed(weights[2:]))
        assert difference(gradient(policy.model), expected) < 1e-6


def test_rows_that_belong_together_come_in_one_pass(policy, tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    rows, pairs = rows_of(6, 2), [(2 * n, 2 * n + 1) for n in range(6)]
    with learner_of(policy, tmp_path, max_length=4) as learner:
        passes = learner.backward(rows, fixed(weights_of(rows)), together=pairs)
    assert len(passes) > 1
    assert all({first, second} <= {*part.rows} for part in passes for first, second in pairs if first in part.rows)


def test_all_rows_are_scored_with_the_adapter_and_without(policy, tmp_path):
    rows = rows_of(3, 2)
    with torch.no_grad():
        bare = [plain_logprobs(policy.model, row).numpy() for row in rows]
    with learner_of(policy, tmp_path) as learner:
        with torch.no_grad():
            adapted = [plain_logprobs(policy.model, row).numpy() for row in rows]
        now, base = learner.forward(rows), learner.forward(rows, base=True)
        assert list(now.rows) == list(range(len(rows))) and now.values is None
        for row in range(len(rows)):
            assert now.logprobs[row] == pytest.approx(adapted[row], abs=1e-5)
            assert base.logprobs[row] == pytest.approx(bare[row], abs=1e-5)
        assert np.abs(np.concatenate(now.logprobs) - np.concatenate(base.logprobs)).max() > 0.01


def test_the_entropy_is_that_of_the_whole_distribution(policy, tmp_path):
    rows = rows_of(4)
    with learner_of(policy, tmp_path, temperature=0.5) as learner, torch.no_grad():
        entropy = 0.0
        for row in rows:
            ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
            logprob_tv = (policy.model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1] / 0.5).log_softmax(-1)
            entropy -= float((logprob_tv.exp() * logprob_tv).sum())
        assert learner.forward(rows).entropy == pytest.approx(entropy, rel=1e-5)


def test_the_critic_learns_its_targets_and_does_not_move_the_policy(policy, tmp_path):
    rows = rows_of(4)
    nothing = [np.zeros(len(row.completion_ids)) for row in rows]
    with learner_of(policy, tmp_path, critic=True) as learner:

        def lower(part: ForwardPass) -> TokenWeights:
            assert part.values is not None
            return TokenWeights([nothing[row] for row in part.rows], [value - 1.0 for value in part.values])

        values = learner.forward(rows).values
        assert values is not None and not np.concatenate(values).any(), "a new critic knows nothing"
        for _ in range(60):
            learner.backward(rows, lower)
            assert not gradient(policy.model).any()
            learner.step(StepSettings(learning_rate=0.01))
        values = learner.forward(rows).values
        assert values is not None and [len(value) for value in values] == [len(row.completion_ids) for row in rows]
        assert np.concatenate(values) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("max_norm", [1.0, 0.0])
def test_a_step_is_one_of_adam_with_a_clipped_gradient(max_norm, policy, tmp_path):
    rows, settings = rows_of(6), StepSettings(0.01, (0.8, 0.95), 1e-6, max_norm)
    weights = weights_of(rows)
    with learner_of(policy, tmp_path) as learner:
        other = copy.deepcopy(policy.model)
        del other.get_base_model().forward
        trained = [weight for weight in other.parameters() if weight.requires_grad]
        adam = torch.optim.AdamW(trained, 0.01, (0.8, 0.95), 1e-6, 0.0)
        for _ in range(3):
            losses = [
                (torch.tensor(w) * plain_logprobs(other, row)).sum() for w, row in zip(weights, rows, strict=True)
            ]
            torch.stack(losses).sum().backward()
            norm = float(torch.nn.utils.clip_grad_norm_(trained, max_norm or 1e9))
            adam.step()
            adam.zero_grad()
            learner.backward(rows, fixed(weights))
            assert learner.step(settings) == pytest.approx(norm, rel=1e-4) and norm > 1
        with torch.no_grad():
            expected = np.concatenate([plain_logprobs(other, row) for row in rows])
        assert np.concatenate(learner.forward(rows).logprobs) == pytest.approx(expected, abs=1e-3)


def test_a_steep_critic_does_not_shorten_the_step_of_the_adapter(policy, tmp_path):
    """Its gradient is clipped to a norm of its own."""
    rows, norms, results = rows_of(4), [], []
    for steepness in (0.0, 1e6):
        with learner_of(policy, tmp_path / str(steepness), critic=True) as learner:
            values = [np.full(len(row.completion_ids), steepness) for row in rows]
            for _ in range(2):  # Adam forgets the size of a first gradient
                learner.backward(rows, fixed(weights_of(rows), values))
                norms.append(learner.step(StepSettings(0.01)))
            results.append(np.concatenate(learner.forward(rows).logprobs))
    assert norms[:2] == norms[2:] and norms[0] > 1
    assert np.array_equal(*results)


def test_without_a_gradient_nothing_moves(policy, tmp_path):
    rows = rows_of(4)
    with learner_of(policy, tmp_path) as learner:
        learner.backward(rows, fixed(weights_of(rows)))
        learner.step(StepSettings(0.01))
        before = learner.forward(rows).logprobs
        assert learner.step(StepSettings(0.01)) == 0.0
        assert np.array_equal(np.concatenate(learner.forward(rows).logprobs), np.concatenate(before))


def test_requests_wait_from_the_gradient_to_the_step_and_after_an_error_they_do_not(policy, tmp_path):
    rows = rows_of(4)

    def fail(part: ForwardPass) -> TokenWeights:
        raise ValueError("a wrong loss")

    with learner_of(policy, tmp_path) as learner:
        first = learner.publish()
        learner.backward(rows, fixed(weights_of(rows)))
        assert policy.held and policy.model.training
        learner.step(StepSettings(0.01))
        assert not policy.held and not policy.model.training and learner.publish() != first
        with pytest.raises(ValueError, match="a wrong loss"):
            learner.backward(rows, fail)
        assert not policy.held and not gradient(policy.model).any()


def steps(learner: Any, count: int) -> None:
    rows = rows_of(6, seed=count)
    for _ in range(count):
        learner.backward(rows, fixed(weights_of(rows), weights_of(rows, 2)))
        learner.step(StepSettings(0.01))


def test_a_resumed_learner_takes_the_same_steps_exactly(policy, tmp_path):
    """Also with dropout, whose draws depend on the number of the step."""
    rows, lora = rows_of(6), LoraSettings(rank=4, alpha=8, dropout=0.2)
    with learner_of(policy, tmp_path, lora, critic=True) as learner:
        steps(learner, 3)
        state = json.loads(json.dumps(learner.save("step-3-1")))
        saved = learner.forward(rows)
        steps(learner, 2)
        whole = learner.forward(rows)
    with policy.learner(lora, None, 9, critic=True, work=tmp_path) as other:
        other._seed = 0
        other.load(state)
        for now, then in ((other.forward(rows), saved), (steps(other, 2) or other.forward(rows), whole)):
            assert np.array_equal(np.concatenate(now.logprobs), np.concatenate(then.logprobs))
            assert now.values and then.values
            assert np.array_equal(np.concatenate(now.values), np.concatenate(then.values))


def test_a_lost_state_and_one_of_another_training_are_refused_in_one_line(policy, tmp_path):
    with learner_of(policy, tmp_path) as learner:
        state = learner.save("one")
        for name, content in (("lost", None), ("cut", (tmp_path / "one/learner.pt").read_bytes()[:500])):
            (tmp_path / name).mkdir()
            if content:
                (tmp_path / name / "learner.pt").write_bytes(content)
            with pytest.raises(PolicyError, match=f"{name}/learner.pt") as refused:
                learner.load({"file": f"{name}/learner.pt"})
            assert "\n" not in str(refused.value)
    other = toy.ToyPolicy(policy.model, policy.tokenizer, base_sha256="c" * 64)
    with learner_of(other, tmp_path) as learner, pytest.raises(PolicyError, match="another base"):
        learner.load(state)
    with learner_of(policy, tmp_path, LoraSettings(rank=2)) as learner, pytest.raises(PolicyError, match="another"):
        learner.load(state)


def test_the_exported_folder_is_loaded_by_peft_with_the_same_logprobs(policy, tmp_path):
    from peft import PeftModel

    rows, bare = rows_of(5), copy.deepcopy(policy.model)
    with learner_of(policy, tmp_path) as learner:
        steps(learner, 2)
        expected = learner.forward(rows).logprobs
        learner.export(tmp_path / "adapter", asdict(origin(policy)))
    model = PeftModel.from_pretrained(bare, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        loaded = [plain_logprobs(model, row).numpy() for row in rows]
    assert np.concatenate(loaded) == pytest.approx(np.concatenate(expected), abs=1e-5)
    assert read_adapter_origin(tmp_path / "adapter") == origin(policy)
    with learner_of(policy, tmp_path, start=tmp_path / "adapter") as learner:
        assert np.array_equal(np.concatenate(learner.forward(rows).logprobs), np.concatenate(expected))


def test_requests_between_steps_are_answered_with_the_newest_weights_and_afterwards_with_those_of_before(tmp_path):
    engine = PolicyEngine(spec(checkpoint(tmp_path / "base")), tmp_path, no_texts)
    question = ask("19+7=", temperature=0.8, seed=1, max_tokens=8)
    (first,) = generate(engine, [question])
    row, versions = [TrainingRow(first.prompt_ids, first.completion_ids)], {first.adapter}
    with engine.learner(LORA, None, 0, critic=False, work=tmp_path, temperature=0.8) as learner:
        for _ in range(3):
            version = learner.publish()
            (answer,) = generate(engine, [question])
            assert answer.adapter == version not in versions
            versions.add(version)
            (scored,) = learner.forward([TrainingRow(answer.prompt_ids, answer.completion_ids)]).logprobs
            assert answer.logprobs == pytest.approx(scored, abs=1e-4), "no prompt is cached from older weights"
            learner.backward(row, lambda part: TokenWeights([np.ones(len(one)) for one in part.logprobs]))
            learner.step(StepSettings(0.05))
    (again,) = generate(engine, [question])
    assert again.logprobs == first.logprobs and again.adapter not in versions


def take_steps(rank: int, processes: int, port: int, model: str, out: str) -> None:
    """One of several processes that train the toy together."""
    from transformers import Qwen3ForCausalLM

    environment = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    policy = toy.ToyPolicy(Qwen3ForCausalLM.from_pretrained(model).eval(), toy.small_tokenizer())
    rows = rows_of(5, 3, prompt=12)
    with learner_of(policy, Path(out), critic=True) as learner:
        steps(learner, 3)
        passes = learner.backward(rows, fixed(weights_of(rows)), together=[(0, 1), (2, 3)])
        assert sorted(row for part in passes for row in part.rows) == list(range(len(rows)))
        norm = learner.step(StepSettings(0.01))
        learner.save("end")
        now = learner.forward(rows)
        learner.export(Path(out) / "adapter", {"base_id": "toy"})
        numbers = [*np.concatenate(now.logprobs), *np.concatenate(now.values or []), now.entropy]
        (Path(out) / f"{rank}.json").write_text(json.dumps([norm, *numbers]))
        if processes > 1:
            with torch.no_grad():
                next(weight for weight in policy.model.parameters() if weight.requires_grad).add_(rank)
            with pytest.raises(TrainingError, match="2 processes"):
                learner.save("unequal")


def test_two_processes_take_the_steps_of_one(policy, tmp_path):
    policy.model.save_pretrained(tmp_path / "model")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        arguments = [(rank, processes, port, str(tmp_path / "model"), str(out)) for rank in range(processes)]
        running = [spawn.Process(target=take_steps, args=own) for own in arguments]
        for process in running:
            process.start()
        for process in running:
            process.join(300)
            assert process.exitcode == 0
    alone, first, second = (json.loads((tmp_path / name).read_text()) for name in ("1/0.json", "2/0.json", "2/1.json"))
    assert first == second
    assert first == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert (tmp_path / "2/adapter/adapter_model.safetensors").is_file()
