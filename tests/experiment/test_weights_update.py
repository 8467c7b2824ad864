"""A weights update that cannot be done is one line for the journal; what is not the candidate's doing says so."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from sia_runner.config.composition import register_resolvers
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.weights import update as learning
from sia_runner.policy.vllm import VllmPolicy, VllmSampler
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.stage_results import BuildResult
from sia_runner.store.run_directory import RunDir
from sia_runner.tasks.protocol import TaskError
from sia_runner.wire.grants import BudgetSpent, ProviderDown
from sia_runner.wire.policy import PolicyError
from tests.config.test_providers import composed
from tests.policy.checkpoints import checkpoint
from tests.training import toy
from tests.training.trajectories import configured, trajectory

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")


@pytest.fixture
def update(tmp_path, monkeypatch):
    """`update(roll)`: a real update of a small policy with these rollouts."""
    register_resolvers()
    context = RunContext(check_experiment(composed("task=arithmetic", "trainer=grpo")), RunDir(tmp_path))
    context.task.prepare(lambda _: None)
    context.run.generation(2).path.mkdir()
    policy = toy.ToyPolicy(toy.small_model(), toy.small_tokenizer())
    monkeypatch.setattr(RunContext, "gateway", SimpleNamespace(policy=lambda: policy, training_paid_by=nullcontext))

    def one(roll):
        def run_sample(self, units, sample, step, temperature):
            return roll(units, samples=1, step=step, temperature=temperature)

        monkeypatch.setattr(learning.HarnessRollouts, "_run_sample", run_sample)
        return learning.update_weights(context, 2, 1, configured("grpo", steps=1, prompts_per_step=1))

    return one


def failing(error):
    def roll(units, *, samples, step, temperature):
        raise error

    return roll


@pytest.mark.parametrize("error", [TaskError("no such question"), SandboxError("no interpreter has numpy 0.1")])
def test_what_the_task_or_the_sandbox_refuses_fails_the_generation_in_one_line(update, error):
    assert update(failing(error)) == BuildResult(f"grpo: {error}", unscored=False)


def test_out_of_memory_is_the_settings_fault(update):
    error = RuntimeError("CUDA out of memory. Tried to allocate 20 GiB.\nSee the documentation.")
    assert update(failing(error)) == BuildResult("grpo: CUDA out of memory. Tried to allocate 20 GiB.")


@pytest.mark.parametrize("error", [ProviderDown("no answer"), BudgetSpent("run", "calls"), RuntimeError("a bug")])
def test_what_stops_a_run_keeps_its_meaning(update, error):
    with pytest.raises(type(error)):
        update(failing(error))


def test_rollouts_without_any_reward_are_no_fault_of_the_candidate(update):
    def roll(units, *, samples, step, temperature):
        return [trajectory(None, unit=unit, sample=sample) for unit in units for sample in range(samples)]

    result = update(roll)
    assert result.unscored and "has a reward" in result.fault


def test_rewards_that_never_differ_teach_nothing_and_leave_no_adapter(update, tmp_path):
    def roll(units, *, samples, step, temperature):
        return [trajectory(1.0, unit=units[0], sample=sample) for sample in range(samples)]

    assert update(roll).fault == "grpo: nothing to learn from: no question's samples differed in reward"
    assert not RunDir(tmp_path).generation(2).adapter.exists()


def with_base(folder, *overrides):
    chosen = ("task=arithmetic", "trainer=grpo", f"target_agent.policy.base={checkpoint(folder / 'base')}")
    register_resolvers()
    return check_experiment(composed(*chosen, *overrides))


def test_what_the_base_lacks_is_refused_at_the_start_with_its_key(tmp_path):
    learning.check_adapters(with_base(tmp_path))
    with pytest.raises(PolicyError, match=r"trainer\.lora\.targets.*no_such_layer") as refused:
        learning.check_adapters(with_base(tmp_path, "trainer.lora.targets=[no_such_layer]"))
    assert "\n" not in str(refused.value)


def test_the_server_is_asked_for_the_rank_before_anything_is_rolled_out(tmp_path, monkeypatch):
    asked = []
    policy = VllmPolicy.__new__(VllmPolicy)
    policy.sampler = VllmSampler.__new__(VllmSampler)
    monkeypatch.setattr(VllmSampler, "check_adapter", lambda _, *shape: asked.append(shape))
    learning.check_adapters(with_base(tmp_path, "trainer.lora.rank=48"), policy)
    ((layer, inputs, outputs, rank),) = asked
    assert layer.startswith("model.layers.0.") and rank == 48
    assert (inputs, outputs) == (64, 64)


def test_where_a_service_keeps_a_checkpoint_is_recorded(tmp_path):
    context, entries = RunContext(check_experiment(composed("task=smoke")), RunDir(tmp_path)), []
    learning._record_checkpoint(context, 2, 10, {"state": "tinker://m/weights/one"})  # a job's context: nothing
    context.record_event = lambda event, **fields: entries.append((event, fields))
    learning._record_checkpoint(context, 2, 10, {"state": "tinker://m/weights/one"})
    learning._record_checkpoint(context, 2, 20, {"file": "step-000020-1/learner.pt"})
    assert entries == [("checkpoint", {"n": 2, "steps": 10, "path": "tinker://m/weights/one"})]
