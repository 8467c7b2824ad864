"""Processes that divide a base take the steps of one process that has it whole."""

import json
import multiprocessing
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("trl", reason="the fused head is TRL's")

import torch.distributed as dist

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.policy import forward
from sia_runner.policy.base_model import load_base
from sia_runner.policy.engine import PolicyEngine
from sia_runner.policy.sharded_learner import ShardPolicy, sharded_learner, share_base_sha256
from sia_runner.records import OutcomeKind, SampledCall, Trajectory
from sia_runner.training import drivers
from sia_runner.wire.learning import ForwardPass, Learner, StepSettings, TokenWeights
from tests.policy.checkpoints import checkpoint, no_texts, spec
from tests.policy.test_learner import disturb, fixed, plain_logprobs, rows_of, weights_of
from tests.training import toy

LORA = LoraSettings(rank=4, alpha=8)
KINDS = ("qwen3", "gpt_oss")
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {"kl_coefficient": 0.1},
    "ppo": {"options": {"iterations": 2}},
    "entropic": {},
    "reinforce": {},
}
# Adam divides by the gradient's size: where that is rounding alone, an entry may move by this much either way.
LEARNING_RATE = 1e-4
UNITS, SAMPLES = [f"unit-{number}" for number in range(6)], 5
SMOLLM2 = os.environ.get("SIA_SMOLLM2", "")

Numbers = dict[str, list[float]]


# ---- what each process does


@dataclass
class Policy:
    """A base on disk, trained whole or by all processes; `numbers`: of each step, its loss and the gradient's norm."""

    spec: PolicyConfig
    numbers: list[float]
    base_id: str = "base"
    base_sha256: str = "b" * 64
    sampler: Any = None

    @contextmanager
    def learner(self, lora: LoraSettings, start: Path | None, seed: int, **settings: Any) -> Iterator[Learner]:
        if dist.is_initialized() or "RANK" in os.environ:
            own = sharded_learner(self.spec, self.base_sha256, lora, start, seed, serve=lambda write: "", **settings)
        else:
            own = PolicyEngine(self.spec, Path(), no_texts).learner(lora, start, seed, **settings)
        with own as learner:
            watch(learner, self.numbers)
            yield learner


def watch(learner: Any, numbers: list[float]) -> None:
    """Note the loss and the norm of each step."""
    backward, step = learner.backward, learner.step

    def watched_backward(rows: Any, lower: Any, **more: Any) -> Any:
        losses = []

        def lower_and_note(part: ForwardPass) -> TokenWeights:
            weights = lower(part)
            losses.append(sum(float(w @ own) for w, own in zip(weights.logprobs, part.logprobs, strict=True)))
            return weights

        passes = backward(rows, lower_and_note, **more)
        total = torch.tensor(losses, dtype=torch.float64).sum()
        if dist.is_initialized():
            dist.all_reduce(total)
        numbers.append(float(total))
        return passes

    def watched_step(settings: StepSettings) -> Any:
        numbers.append(step(settings))
        return numbers[-1]

    learner.backward, learner.step = watched_backward, watched_step


def trained(base: Path, folder: Path) -> Numbers:
    """Train with each algorithm on the same rollouts; the numbers of the steps, by algorithm."""
    recorded = json.loads((base / "rollouts.json").read_text())

    def roll(units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        trajectories = []
        for unit, sample in ((unit, sample) for unit in units for sample in range(samples)):
            prompt, completion, logprobs, reward = recorded[unit][sample]
            call = SampledCall(tuple(prompt), tuple(completion), tuple(logprobs), "stop", "")
            trajectories.append(Trajectory(unit, sample, (call,), reward, OutcomeKind.WRONG))
        return trajectories

    numbers: Numbers = {}
    for name, changes in ALGORITHMS.items():
        shape = {"prompts_per_step": 3, "group_size": SAMPLES, "learning_rate": LEARNING_RATE, "lora": LORA}
        settings = toy.settings(name, steps=6, checkpoint_every=3, shards=2, **shape, **changes)
        numbers[name] = []
        policy: Any = Policy(spec(base), numbers[name])
        job = toy.assignment(policy, settings, folder / name, roll=roll, units=UNITS)
        drivers.train(job)
    return numbers


def six_steps(base: Path, folder: Path, resumed: Path | None) -> Numbers:
    """Take six steps with a critic; the last three from what other processes saved in `resumed`, if given."""
    rows = rows_of(7)
    weights, values = weights_of(rows), weights_of(rows, 2)
    numbers: list[float] = []
    policy = Policy(spec(base), numbers)
    with policy.learner(LORA, None, 0, critic=True, work=resumed or folder, max_length=8) as learner:
        own: Any = learner
        if dist.is_initialized():  # as with GPUs
            own._model.activation_checkpointing_enable()
            own._model.enable_input_require_grads()
        disturb(own._model)
        if resumed:
            learner.load({"file": "half/learner.pt"})
        for step in range(3 if resumed else 0, 6):
            if step == 3 and not resumed:
                learner.save("half")
            learner.backward(rows, fixed(weights, values), together=[(0, 1), (4, 5)])
            learner.step(StepSettings(LEARNING_RATE))
        after, before = learner.forward(rows), learner.forward(rows, base=True)
        learner.export(folder / "six" / "adapter", {"base_id": "base"})
    logprobs = np.concatenate([*after.logprobs, *before.logprobs, *(after.values or [])])
    return {"steps": numbers[-6:], "after": [*logprobs, after.entropy or 0.0]}


def work(rank: int, processes: int, port: int, root: Path, out: str, resumed: str, kinds: Sequence[str]) -> None:
    """The work of one process of several."""
    environment = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    both(root, out, resumed, kinds, write=rank == 0)


def both(root: Path, out: str, resumed: str, kinds: Sequence[str], write: bool = True) -> None:
    # several passes, of which some processes have fewer than others
    forward.pass_tokens = lambda max_length, fused_attention=True: max(max_length, 32)
    for kind in kinds:
        folder, earlier = root / out / kind, root / resumed / kind if resumed else None
        numbers = {**six_steps(root / kind, folder, earlier), **trained(root / kind, folder)}
        if write:
            (folder / "numbers.json").write_text(json.dumps(numbers))


def in_processes(count: int, target: Callable[..., None], *arguments: Any) -> None:
    """Run a function in several processes that find each other as torchrun's do."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    running = [spawn.Process(target=target, args=(rank, count, port, *arguments)) for rank in range(count)]
    for process in running:
        process.start()
    for process in running:
        process.join(280)
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
    assert codes == [0] * count


def recorded_rollouts(base: Path) -> dict[str, list[list[Any]]]:
    """Completions of different lengths with the base's logprobs, and rewards between 0 and 1."""
    loaded, dice = load_base(str(base), "cpu", "float32"), random.Random(0)
    rollouts: dict[str, list[list[Any]]] = {}
    for unit in UNITS:
        for sample in range(SAMPLES):
            completion = [dice.randrange(4, toy.VOCABULARY) for _ in range(1 + dice.randrange(6))]
            ids = torch.tensor([[*toy.prompt_of(unit), *completion]])
            with torch.no_grad():
                logprob_tv = loaded.model(input_ids=ids).logits[0, -len(completion) - 1 : -1].log_softmax(-1)
            logprobs = [float(logprob_tv[t, token]) for t, token in enumerate(completion)]
            one = [toy.prompt_of(unit), completion, logprobs, dice.random()]
            rollouts.setdefault(unit, []).append(one)
            assert len(rollouts[unit]) == sample + 1
    return rollouts


# ---- what is compared


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The same training by one process, by two, and by four, which resume the checkpoint of two."""
    root = tmp_path_factory.mktemp("sharded")
    for kind in KINDS:
        checkpoint(root / kind, kind)
        (root / kind / "rollouts.json").write_text(json.dumps(recorded_rollouts(root / kind)))
    rule = forward.pass_tokens
    try:
        both(root, "1", "", KINDS)
    finally:
        forward.pass_tokens = rule
    in_processes(2, work, root, "2", "", KINDS)
    in_processes(4, work, root, "4", "2", KINDS)
    return root


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [2, 4])
def test_loss_norm_and_adapter_after_six_steps_are_those_of_one_process(processes, kind, runs):
    alone, several = (runs / str(count) / kind for count in (1, processes))
    expected, found = (json.loads((folder / "numbers.json").read_text()) for folder in (alone, several))
    assert found.keys() == {"steps", "after", *ALGORITHMS}
    for name, numbers in expected.items():
        assert len(numbers) >= 6 and np.abs(numbers).max() > 0.01
        assert found[name] == pytest.approx(numbers, rel=1e-5, abs=1e-5), name
    for name in ("six", *ALGORITHMS):
        weights, own = tensors_of(alone / name), tensors_of(several / name)
        assert max(float(weight.abs().max()) for key, weight in weights.items() if "lora_B" in key) > 4 * LEARNING_RATE
        assert own.keys() == weights.keys() and any("experts" in key for key in own) == (kind == "gpt_oss")
        for key, weight in weights.items():
            assert torch.allclose(own[key], weight, rtol=1e-5, atol=1e-5), (name, key, (own[key] - weight).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_first_process_writes_is_an_adapter_of_peft(kind, runs):
    from peft import PeftModel

    model = load_base(str(runs / kind), "cpu", "float32").model
    adapted = PeftModel.from_pretrained(model, str(runs / "4" / kind / "six" / "adapter")).eval()
    with torch.no_grad():
        logprobs = np.concatenate([plain_logprobs(adapted, row).numpy() for row in rows_of(7)])
    expected = json.loads((runs / "4" / kind / "numbers.json").read_text())["after"]
    assert logprobs == pytest.approx(expected[: len(logprobs)], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not SMOLLM2, reason="no SmolLM2-135M: python tests/engines/smollm2.py FOLDER, then SIA_SMOLLM2=FOLDER"
)
def test_a_real_chat_model_is_trained_by_two_processes_as_by_one(tmp_path):
    (tmp_path / "smollm2").symlink_to(SMOLLM2)
    in_processes(2, real_steps, tmp_path, "2")
    os.environ.pop("RANK", None)
    take_real_steps(tmp_path, "1")
    alone, several = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert several == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_one_process_reads_the_base_and_sends_its_hash_to_the_others(tmp_path):
    in_processes(3, hashes, tmp_path)


def hashes(rank: int, processes: int, port: int, root: Path) -> None:
    environment = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    base = PolicyConfig(base=str(root / "no files"), device="cpu")
    own = ShardPolicy(base).base_sha256 if rank else share_base_sha256(base, "a" * 64)
    assert own == "a" * 64


def real_steps(rank: int, processes: int, port: int, root: Path, out: str) -> None:
    environment = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    take_real_steps(root, out, write=rank == 0)


def take_real_steps(root: Path, out: str, write: bool = True) -> None:
    rows, numbers = rows_of(5), list[float]()
    policy = Policy(spec(root / "smollm2"), numbers)
    with policy.learner(LoraSettings(rank=8, alpha=16), None, 0, critic=False, work=root) as learner:
        for _ in range(3):
            learner.backward(rows, fixed(weights_of(rows)))
            learner.step(StepSettings(LEARNING_RATE))
        logprobs = np.concatenate(learner.forward(rows).logprobs)
    if write:
        (root / f"{out}.json").write_text(json.dumps([*numbers, *logprobs]))
