"""A verifiable toy: the prompt hides one of eight symbols among noise; right is the completion with its answer.

The model is a two-layer Qwen3 of 128 hidden units, warmed until it answers right less than half of the time. Prompts
are drawn from 65,536; those for measuring share none with those for training.
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_runner.config.training import AlgorithmConfig, EarlyStopping, LoraSettings
from sia_runner.records import OutcomeKind, SampledCall, Trajectory
from sia_runner.training.protocol import TrainingJob

SYMBOLS, NOISE = 8, 16
ASK, EOS, PAD = 3, 1, 0
SYMBOL, ANSWER, NOISES = 4, 4 + SYMBOLS, 4 + 2 * SYMBOLS
VOCABULARY = NOISES + NOISE
HELD_OUT = [f"held-{number}" for number in range(128)]
ROLLED = [f"train-{number}" for number in range(256)]


def prompt_of(unit: str) -> tuple[int, ...]:
    draw = random.Random(unit)
    symbol = SYMBOL + draw.randrange(SYMBOLS)
    noise = [NOISES + draw.randrange(NOISE) for _ in range(4)]
    return (2, *noise[:2], symbol, *noise[2:], ASK)


def answer_to(prompt: Sequence[int]) -> int:
    return prompt[3] - SYMBOL + ANSWER


def small_model(seed: int = 0, **changes: Any) -> Any:
    """A causal LM of Qwen3's shape with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "bos_token_id": 2,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    return Qwen3ForCausalLM(Qwen3Config(**{**shape, **changes})).eval()


def small_tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", "<bos>", "ask", *(f"t{number}" for number in range(4, VOCABULARY))]
    inner = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def warm(model: Any, until: float = 0.3, seed: int = 0) -> Any:
    """Supervised training on other prompts until P(right answer) passes `until`: below 0.5, as the paper's policies."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0)
    for step in range(400):
        units = [f"warm-{seed}-{step}-{number}" for number in range(32)]
        if step % 2 == 0 and chance(model, units) >= until:
            break
        prompts = [prompt_of(unit) for unit in units]
        ids = torch.tensor([[*prompt, answer_to(prompt), EOS] for prompt in prompts])
        labels = ids.clone()
        labels[:, : len(prompts[0])] = -100
        model.train()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def chance(model: Any, units: Sequence[str]) -> float:
    """Mean probability that the first token drawn at temperature 1 is the right answer."""
    import torch

    prompts = [prompt_of(unit) for unit in units]
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(prompts)).logits[:, -1].double()
    right = torch.tensor([[answer_to(prompt)] for prompt in prompts])
    return float(torch.softmax(logits, -1).gather(1, right).mean())


def sample(model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], limit: int = 2) -> list[SampledCall]:
    """Draw completions; each row from a generator of its own, so that its draw does not depend on the batch."""
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    for _ in range(limit):
        ids = torch.tensor([[*prompt, *tokens] for prompt, tokens in zip(prompts, drawn, strict=True)])
        with torch.no_grad():
            logprob_bv = torch.log_softmax(model(input_ids=ids).logits[:, -1].float(), -1)
        for row, generator in enumerate(generators):
            token = int(torch.multinomial(logprob_bv[row].exp(), 1, generator=generator))
            drawn[row].append(token)
            logprobs[row].append(float(logprob_bv[row, token]))
    return [_until_end(*one) for one in zip(prompts, drawn, logprobs, strict=True)]


def _until_end(prompt: Sequence[int], drawn: list[int], logprobs: list[float]) -> SampledCall:
    length = drawn.index(EOS) + 1 if EOS in drawn else len(drawn)
    reason = "stop" if EOS in drawn else "length"
    return SampledCall(tuple(prompt), tuple(drawn[:length]), tuple(logprobs[:length]), reason, "live")


@dataclass
class ToyPolicy:
    model: Any
    tokenizer: Any
    base_id: str = "toy"
    base_sha256: str = "b" * 64
    trust_base: bool = False
    held: bool = False
    holds: int = 0
    lock: Any = field(default_factory=threading.RLock)
    sampler: Any = None
    plain: bool = False  # trained by tests/training/toy_learner.py, `rows_per_pass` at a time
    rows_per_pass: int = 10_000
    learners: list[Any] = field(default_factory=list)

    @property
    def version(self) -> str:
        return f"base+{self.holds}"

    @contextmanager
    def learner(
        self,
        lora: LoraSettings,
        start: Path | None,
        seed: int,
        *,
        critic: bool,
        work: Path,
        temperature: float = 1.0,
        max_length: int | None = None,
    ) -> Iterator[Any]:
        from sia_runner.policy.learner import in_process_learner
        from tests.training.toy_learner import toy_learner

        settings: dict[str, Any] = {"critic": critic, "work": work, "temperature": temperature}
        if self.plain:
            yielded: Any = toy_learner(self, lora, start, seed, rows_per_pass=self.rows_per_pass, **settings)
        else:
            yielded = in_process_learner(self, lora, start, seed, max_length=max_length, **settings)
        with yielded as learner:
            self.learners.append(learner)
            yield learner

    @contextmanager
    def training(self) -> Iterator[Any]:
        assert not self.held, "training twice at once"
        self.held, self.holds = True, self.holds + 1
        self.model.train()
        try:
            yield self.model
        finally:
            self.model.eval()
            self.held = False


Verify = Callable[[Trajectory], Trajectory]


@dataclass
class ToyRoll:
    """Runs the toy "harness": `calls` model calls a question, each with the same prompt; the last one is the answer."""

    policy: ToyPolicy
    calls: int = 1
    limit: int = 2  # tokens of a completion
    change: Verify | None = None  # what a test makes of a trajectory before training sees it
    asked: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        from sia_runner.training.batch import derive_seed

        assert not self.policy.held and not self.policy.model.training, "served in the middle of an optimizer step"
        assert temperature == 1.0
        self.asked.append((step, tuple(units)))
        wanted = [(unit, sample, call) for unit in units for sample in range(samples) for call in range(self.calls)]
        prompts, seeds = [prompt_of(unit) for unit, _, _ in wanted], [derive_seed(step, *one) for one in wanted]
        made = sample(self.policy.model, prompts, seeds, self.limit)
        trajectories = []
        for start in range(0, len(wanted), self.calls):
            unit, number, _ = wanted[start]
            calls = tuple(made[start : start + self.calls])
            right = calls[-1].completion_ids[0] == answer_to(calls[-1].prompt_ids)
            kind = OutcomeKind.CORRECT if right else OutcomeKind.WRONG
            one = Trajectory(unit, number, calls, float(right), kind)
            trajectories.append(self.change(one) if self.change else one)
        return trajectories


def with_logprobs(one: Trajectory, shift: float) -> Trajectory:
    """The same tokens, said to be drawn with other probabilities."""
    calls = (replace(call, logprobs=tuple(logprob + shift for logprob in call.logprobs)) for call in one.calls)
    return replace(one, calls=tuple(calls))


def settings(name: str, **changes: Any) -> AlgorithmConfig:
    """Values that suit a model of this size."""
    kind = "offline" if name in ("best_of_n", "dpo") else "online"
    common: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "mode": "SIA-W+H",
        "algorithm": name,
        "lora": LoraSettings(rank=32, alpha=64),
        "learning_rate": 1e-3,
        "steps": 40,
        "prompts" if kind == "offline" else "prompts_per_step": 4,
        "group_size": 8,
        "max_length": 16,
    }
    if kind == "online":
        common["early_stopping"] = EarlyStopping(
            max_kl=None, min_entropy=None, max_uniform_groups=None, max_length_ratio=None, max_drift=None
        )
    return AlgorithmConfig(**{**common, **changes})


def assignment(policy: ToyPolicy, algorithm: AlgorithmConfig, folder: Path, **changes: Any) -> TrainingJob:
    values: dict[str, Any] = {
        "algorithm": algorithm,
        "policy": policy,
        "roll": ToyRoll(policy),
        "units": ROLLED,
        "start": None,
        "out": folder / "adapter",
        "work": folder / "work",
        "seed": 0,
        "say": lambda line: None,
    }
    return TrainingJob(**{**values, **changes})
