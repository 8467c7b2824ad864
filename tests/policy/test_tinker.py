"""The learner and the sampler of policy=tinker at a service of plain numbers; the real one: test_tinker_server.py."""

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("safetensors", reason="adapters are tensors")

from sia_runner.config.training import LoraSettings
from sia_runner.policy.tinker import placed_model
from sia_runner.policy.tinker_client import ModelSettings
from sia_runner.policy.tinker_learner import TinkerLearner, measure_reduction, model_settings, write_archive
from sia_runner.policy.tinker_sampler import TinkerSampler, load_proven
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.learning import ForwardPass, RowNumbers, SampleSettings, StepSettings, TokenWeights, TrainingRow
from sia_runner.wire.policy import LIVE_WEIGHTS, PolicyError

RATE = 1000.0  # the service's own: its gradients are small
ROWS = [TrainingRow((1, 2), (5, 6, 7)), TrainingRow((1, 2, 3), (7, 8))]
SETTINGS = ModelSettings("base", 4, 1)


class NumberModel:
    """A model under training whose logprob of a token is a number of its own, trained without momentum."""

    model_id = "model_1"

    def __init__(self, reduction: str = "sum") -> None:
        self.reduction, self.table = reduction, np.full(64, -1.0)
        self.saved: dict[str, np.ndarray] = {}
        self.calls: list[str] = []
        self.gradient, self.rows = np.zeros(64), 0
        self.fails = ""  # the call that fails

    def forward(self, rows: Sequence[TrainingRow]) -> RowNumbers:
        self._called("forward")
        return [self.table[list(row.completion_ids)] for row in rows]

    def backward(self, rows: Sequence[TrainingRow], logprobs: RowNumbers, advantages: RowNumbers) -> RowNumbers:
        self._called("backward")
        for row, own in zip(rows, advantages, strict=True):
            length = len(row.prompt_ids) + len(row.completion_ids) - 1
            share = {"sum": 1.0, "mean": 1 / length, "rows": 1 / length**2}[self.reduction]
            np.add.at(self.gradient, list(row.completion_ids), np.asarray(own) * share)
        self.rows += len(rows)
        return self.forward(rows)

    def step(self, settings: StepSettings) -> float:
        self._called("step")
        self.table = self.table + RATE * settings.learning_rate * self.gradient / (
            1 if self.reduction == "sum" else self.rows
        )
        self.gradient, self.rows = np.zeros(64), 0
        return 1.0

    def save_state(self, name: str) -> str:
        self.saved[f"tinker://{name}"] = self.table
        return f"tinker://{name}"

    def load_state(self, path: str, *, optimizer: bool = True) -> None:
        self.table = self.saved.get(path, self.table)  # a lost state changes nothing, and is no error

    def publish(self) -> "NumberSampling":
        return NumberSampling(self.table)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise CallError("timeout", f"no answer about {name}")


class NumberSampling:
    def __init__(self, table: np.ndarray) -> None:
        self.table, self.asked = table, 0

    def sample(self, prompt_ids: Sequence[int], count: int, settings: SampleSettings, end_ids: Sequence[int]) -> Any:
        self.asked += 1
        return [((5, 6, 7, 8), (-1.0, -2.0, -3.0, -4.0), "length")] * count

    def score(self, row: TrainingRow) -> np.ndarray:
        return self.table[list(row.completion_ids)]


class Base:
    """What learner and sampler need of the base at a service."""

    base_id, place, context, concurrency, end_ids = "base", "http://service", 100, 2, (0,)

    def __init__(self) -> None:
        self.client = SimpleNamespace(
            address="http://service",
            seconds=5.0,
            url="http://service",
            padded_count=lambda rows: rows,
            sampler=lambda path, base: NumberSampling(np.full(64, -1.0)),
        )
        self.chat = SimpleNamespace(stopped=lambda stop: lambda ids: bool(stop) and 6 in ids)
        self.sampler = TinkerSampler(self)  # pyright: ignore[reportArgumentType]
        self.charged: list[tuple[int, int]] = []

    @contextmanager
    def charge(self, prefill: int, trained: int) -> Iterator[None]:
        self.charged.append((prefill, trained))
        yield

    def neutral_row(self) -> TrainingRow:
        return ROWS[0]


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_runner.policy.tinker_learner.sdk_version", lambda: "0.24.1")


def learner_of(model: NumberModel, base: Base | None = None, reduction: str | None = None) -> TinkerLearner:
    base = base or Base()
    return TinkerLearner(base, base.sampler, model, SETTINGS, reduction or model.reduction)  # pyright: ignore


def lowered(*values: float) -> Any:
    return lambda result: TokenWeights([np.full(len(result.logprobs[row]), values[row]) for row in result.rows])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reduction_is_measured(reduction: str) -> None:
    assert measure_reduction(NumberModel(reduction), (ROWS[0], ROWS[1])) == reduction  # pyright: ignore


def test_other_reduction_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"neither by a sum nor by a mean.*tinker\.reduction"):
        measure_reduction(NumberModel("rows"), (ROWS[0], ROWS[1]))  # pyright: ignore


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_step_has_the_gradient_of_the_weighted_sum(reduction: str) -> None:
    """Whatever the service divides by, and in whatever calls the rows come."""
    for together in (True, False):
        learner = learner_of(model := NumberModel(reduction))
        if together:
            learner.backward(ROWS, lowered(0.5, -2.0))
        else:
            learner.backward(ROWS[:1], lowered(0.5))
            learner.backward(ROWS[1:], lambda result: TokenWeights([np.full(2, -2.0)]))
        learner.step(StepSettings(1e-3))
        moved = model.table + 1
        np.testing.assert_allclose(moved[[5, 6, 7, 8]], [-0.5, -0.5, 1.5, 2.0], rtol=1e-12)


def test_rows_without_a_weight_are_not_sent_and_not_paid_for() -> None:
    base, model = Base(), NumberModel()
    learner = learner_of(model, base)
    learner.backward(ROWS, lowered(0.0, 1.0))
    assert base.charged == [(10, 0)]
    learner.step(StepSettings(1e-3))
    assert base.charged[1:] == [(0, 5)]
    learner.backward(ROWS, lowered(0.0, 0.0))
    calls = list(model.calls)
    assert learner.step(StepSettings(1e-3)) == 0.0 and model.calls == calls


def test_live_weights_are_refused_between_a_step_and_its_publication() -> None:
    base, model = Base(), NumberModel()
    learner = learner_of(model, base)
    assert learner.publish() == "base+1"
    first = base.sampler.score(ROWS, LIVE_WEIGHTS)
    learner.backward(ROWS, lowered(1.0, 1.0))
    learner.step(StepSettings(1e-3))
    with pytest.raises(CallError, match="not published"):
        base.sampler.score(ROWS, LIVE_WEIGHTS)
    assert learner.publish() == "base+2"
    assert all((now < before).all() for now, before in zip(base.sampler.score(ROWS, LIVE_WEIGHTS), first, strict=True))


def test_a_step_waits_for_answers_under_way() -> None:
    """An old client that is answered after the step may put the old weights back."""
    base, model, order = Base(), NumberModel(), []
    learner = learner_of(model, base)
    asked, answer = threading.Event(), threading.Event()

    class Slow(NumberSampling):
        def score(self, row: TrainingRow) -> np.ndarray:
            asked.set()
            answer.wait(10)
            order.append("answer")
            return super().score(row)

    base.sampler.publish(Slow(model.table))  # pyright: ignore
    thread = threading.Thread(target=lambda: base.sampler.score(ROWS[:1], LIVE_WEIGHTS))
    thread.start()
    assert asked.wait(10)
    threading.Timer(0.1, answer.set).start()
    learner.backward(ROWS, lowered(1.0, 1.0))
    learner.step(StepSettings(1e-3))
    order.append("step")
    thread.join()
    assert order == ["answer", "step"]


@pytest.mark.parametrize("call", ["backward", "step"])
def test_step_that_is_broken_off_ends_the_learner(call: str) -> None:
    """The gradient may still be at the service: only a saved state is known."""
    learner = learner_of(model := NumberModel())
    state = learner.save("before")
    learner.backward(ROWS, lowered(1.0, 1.0))
    model.fails = call
    with pytest.raises(ProviderDown, match=f"no answer about {call}"):
        learner.step(StepSettings(1e-3))
    model.fails = ""
    for use in (lambda: learner.forward(ROWS), learner.publish, lambda: learner.save("after")):
        with pytest.raises(ProviderDown, match="broken off; resume from the last checkpoint"):
            use()
    learner.load(state)
    assert isinstance(learner.forward(ROWS), ForwardPass)


def test_lost_state_is_seen_though_the_service_reports_success() -> None:
    learner = learner_of(model := NumberModel())
    learner.backward(ROWS, lowered(1.0, 1.0))
    learner.step(StepSettings(1e-3))
    state = json.loads(json.dumps(learner.save("one")))
    learner.load(state)
    other = learner_of(NumberModel())
    with pytest.raises(PolicyError, match=r"a checkpoint .*training/ .*is lost: tinker://one-.* changed nothing"):
        other.load(state)
    assert model.saved


def test_proof_allows_the_noise_of_a_service() -> None:
    """Low precision shifts logprobs by more than the limit, but not towards the weights before the load."""
    model = NumberModel()
    learner = learner_of(model)
    learner.backward(ROWS, lowered(1.0, 1.0))
    learner.step(StepSettings(1e-3))
    state = learner.save("one")
    for row in state["proof"]:
        row["logprobs"] = [value + 0.01 for value in row["logprobs"]]
    model.table = np.full(64, -1.0)
    load_proven(model, state, "the checkpoint", Base().charge)  # pyright: ignore


@pytest.mark.parametrize("name", ["base", "service"])
def test_checkpoint_of_elsewhere_is_refused(name: str) -> None:
    learner = learner_of(NumberModel())
    with pytest.raises(PolicyError, match=f"of {name} other"):
        learner.load(learner.save("one") | {name: "other"})
    learner.load(learner.save("two") | {"sdk": "0.24.9"})


def test_state_that_is_forgotten_is_deleted_at_its_own_service_only() -> None:
    base, deleted = Base(), []
    base.client.delete = deleted.append
    learner = learner_of(NumberModel(), base)
    state = learner.save("one")
    learner.forget(state | {"service": "http://elsewhere"})
    learner.forget({"file": "step-000001-1/learner.pt"})
    assert not deleted
    learner.forget(state)
    assert deleted == [state["state"]]


@pytest.mark.parametrize("reached", [True, False])
def test_place_that_could_not_be_freed_is_on_disk_for_the_resume(tmp_path: Path, reached: bool) -> None:
    model = SimpleNamespace(model_id="model_7", unload=lambda: reached)
    client: Any = SimpleNamespace(create=lambda settings: model)
    with placed_model(client, SETTINGS, tmp_path):
        assert json.loads((tmp_path / "tinker_model.json").read_text()) == {"model_id": "model_7"}
    assert (tmp_path / "tinker_model.json").exists() is not reached


def test_stop_strings_end_a_completion_here() -> None:
    base = Base()
    (sample,) = base.sampler.sample((1, 2), 1, SampleSettings(4, stop=("x",)), None)
    assert (sample.ids, sample.logprobs, sample.finish_reason) == ((5, 6), (-1.0, -2.0), "stop")
    assert sample.billed == 4, "the service has generated all of them"
    (whole,) = base.sampler.sample((1, 2), 1, SampleSettings(4), None)
    assert (len(whole.ids), whole.finish_reason, whole.version) == (4, "length", "base")


@pytest.mark.parametrize(
    ("lora", "attention", "mlp", "unembedding"),
    [
        (LoraSettings(alpha=32), True, True, False),
        (LoraSettings(alpha=32, targets=["q_proj", "k_proj", "v_proj", "o_proj"]), True, False, False),
        (LoraSettings(alpha=32, targets=["gate_proj", "up_proj", "down_proj"], save=["lm_head"]), False, True, True),
    ],
)
def test_targets_become_what_a_service_trains(
    lora: LoraSettings, attention: bool, mlp: bool, unembedding: bool
) -> None:
    assert model_settings("base", lora, 3) == ModelSettings("base", 32, 3, attention, mlp, unembedding)


@pytest.mark.parametrize(("targets", "words"), [(["q_proj"], "lacks k_proj"), (["q_proj", "router"], "targets=router")])
def test_targets_that_no_service_knows_are_refused(targets: list[str], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        model_settings("base", LoraSettings(alpha=32, targets=targets), 0)


def archive(*modules: str, files: Sequence[str] = ("adapter_model.safetensors", "adapter_config.json")) -> bytes:
    from safetensors.numpy import save

    tensors = {
        f"base_model.model.layers.0.{module}.lora_{part}.weight": np.zeros((2, 2), np.float32)
        for module in modules
        for part in "AB"
    }
    contents = dict(zip(files, (save(tensors), b'{"r": 2, "target_modules": null, "task_type": null}'), strict=False))
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w:gz") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def test_archive_becomes_a_folder_that_names_its_modules(tmp_path: Path) -> None:
    settings = ModelSettings("base", 2, 1, mlp=False)
    write_archive(archive(*ATTENTION), tmp_path / "adapter", {"base_id": "base"}, settings)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(ATTENTION) and config["task_type"] == "CAUSAL_LM"
    assert json.loads((tmp_path / "adapter" / "sia_adapter.json").read_text()) == {"base_id": "base"}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (archive(*ATTENTION, "up_proj"), "asks for mlp=False, but the service trained"),
        (archive("up_proj"), "asks for attention=True"),
        (archive(*ATTENTION, files=("adapter_model.safetensors",)), "no adapter_model.safetensors with"),
        (b"not an archive", "cannot be read"),
    ],
)
def test_archive_of_something_else_leaves_nothing(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        write_archive(data, tmp_path / "adapter", {"base_id": "base"}, ModelSettings("base", 2, 1, mlp=False))
    assert not list(tmp_path.iterdir())
