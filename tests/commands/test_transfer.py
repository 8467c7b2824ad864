"""The configuration of a transfer, and whether an adapter comes along."""

import json
from types import SimpleNamespace

import pytest

from sia_runner.commands import transfer
from sia_runner.commands.verify import _check_transfer
from sia_runner.config.composition import register_resolvers
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.runner import stored_config
from sia_runner.store.journal import Journal, JournalReader
from sia_runner.store.run_directory import RunDir, RunDirectoryError, write_json
from tests.config.test_providers import composed

HOSTED = ["provider=custom", "provider.base_url=http://127.0.0.1:9/v1", "provider.model=m"]


@pytest.fixture
def own():
    register_resolvers()
    return lambda *overrides: check_experiment(composed(*overrides))


def test_what_is_not_named_stays_and_nothing_is_proposed_or_trained(own):
    before = own("task=arithmetic", *HOSTED, "meta_agent=llm", "seed=7", "split_seed=3", "budget.usd=1")
    after = transfer.transfer_config(before, ["provider.model=other", "budget.tokens=9"])
    assert (after.target_provider.model, after.target_provider.base_url) == ("other", before.target_provider.base_url)
    assert (after.seed, after.split_seed, after.task) == (7, 3, before.task)
    assert (after.meta_agent.name, after.trainer.kind, after.budget.usd, after.budget.tokens) == (
        "recipes",
        "none",
        None,
        9,
    )
    assert after.target_agent.kind == "model"


def test_a_trained_run_keeps_its_policy_on_another_task_and_leaves_it_for_a_provider(own):
    trained = own("task=arithmetic", "trainer=grpo")
    elsewhere = transfer.transfer_config(trained, ["task=gpqa"])
    assert elsewhere.has_policy and elsewhere.target_agent.policy.base == trained.target_agent.policy.base
    hosted = transfer.transfer_config(trained, HOSTED)
    assert not hosted.has_policy and hosted.target_provider.model == "m"
    other = transfer.transfer_config(trained, ["policy=smollm2"])
    assert other.has_policy and other.target_agent.policy.base == "smollm2"


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("max_gen=9", "max_gen=9: nothing that a transfer can change; allowed: choices and keys of provider"),
        ("trainer=grpo", "nothing that a transfer can change"),
        ("provider.nothing=1", "no such key in the run's configuration"),
        ("task.limits.run=[1", "task.limits.run=[1: the value is no YAML"),
    ],
)
def test_other_keys_are_refused_in_a_line(own, override, why):
    with pytest.raises(RunDirectoryError) as refused:
        transfer.transfer_config(own("task=arithmetic", *HOSTED), [override])
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_a_resumed_runs_override_that_is_no_yaml_is_refused_in_a_line(own, tmp_path):
    run = RunDir(tmp_path)
    write_json(run.config, own("task=smoke").model_dump(mode="json", by_alias=True))
    assert stored_config(run, ["budget.usd=2"]).budget.usd == 2
    with pytest.raises(RunDirectoryError, match=r"^budget\.usd=\[1: the value is no YAML; quote it$"):
        stored_config(run, ["budget.usd=[1"])


def test_equal_settings_are_one_transfer_and_others_are_not(own):
    before = own("task=arithmetic", *HOSTED)
    one, again, other = (transfer.transfer_config(before, [f"provider.model={name}"]) for name in ("a", "a", "b"))
    assert transfer._digest(one) == transfer._digest(again) != transfer._digest(other)
    assert "are those of the run" in transfer._transfer_fault(before, transfer.transfer_config(before, []), True)
    assert transfer._transfer_fault(before, one, called_model=True) == ""
    assert "no harness of the run called a model" in transfer._transfer_fault(before, one, called_model=False)
    assert transfer._label(one) == "task arithmetic, provider custom/a"


def test_limits_and_how_calls_are_made_are_no_reason_for_another_look_at_the_test(own):
    before = own("task=arithmetic", *HOSTED)
    for override in ("task.limits.run=901", "task.gate.questions=3", "provider.timeout=61", "provider.concurrency=2"):
        after = transfer.transfer_config(before, [override])
        assert after != before and "are those of the run" in transfer._transfer_fault(before, after, True), override
    one, again = (
        transfer.transfer_config(before, ["provider.model=b", *more]) for more in ([], ["provider.timeout=9"])
    )
    assert transfer._digest(one) == transfer._digest(again)


def test_questions_of_the_run_that_were_not_its_test_are_none_of_a_transfer(tmp_path, monkeypatch):
    run, hashes = RunDir(tmp_path), {"labelled.csv": "a"}
    write_json(run.lock, {"data": hashes})

    def context(test, data=hashes):
        task = SimpleNamespace(
            name="other", splits=lambda: {"test": test}, data_hashes=lambda: data, prepare=lambda _: None
        )
        return SimpleNamespace(task=task)

    monkeypatch.setattr(transfer, "RunContext", lambda *_: context(["1", "2"]))
    fault = transfer._known_questions(run, None, context(["2", "3", "4"]))  # pyright: ignore[reportArgumentType]
    assert "2 of its 3 test questions are the run's own train, dev or val" in fault
    for same in (context(["1", "2"]), context(["2"]), context(["2", "3"], {"labelled.csv": "b"})):
        assert transfer._known_questions(run, None, same) == ""  # pyright: ignore[reportArgumentType]


def test_what_was_killed_after_its_last_test_is_ended_and_before_its_first_is_nothing_to_verify(tmp_path):
    folder = RunDir(tmp_path / "transfer")
    folder.path.mkdir()
    journal = Journal(folder.journal)
    assert list(_check_transfer(folder)) == []
    for n in (2, 1):
        journal.append("done", step=f"test/gen_{n}", result={"generation": n})
    journal.close()
    for _ in range(2):
        transfer._carry_out(folder, folder, None, None, [2, 1], "")  # pyright: ignore[reportArgumentType]
    assert [entry["best"] for entry in JournalReader(folder.journal).of("ended")] == [2]


def test_an_adapter_comes_along_only_onto_its_own_base(own, tmp_path):
    origin = {
        "base_id": "tiny",
        "base_sha256": "a" * 64,
        "lora": {},
        "data_sha256": "",
        "algorithm": "grpo",
        "steps": 1,
    }
    origin |= {"seed": 0, "kl": None, "reward": None, "parent": None}
    for name in ("sia_adapter.json", "adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text(json.dumps(origin))
    trained = own("task=arithmetic", "trainer=grpo")

    def reason(config, sha256):
        policy = SimpleNamespace(base_id="tiny", base_sha256=sha256)
        context = SimpleNamespace(config=config, gateway=SimpleNamespace(policy=lambda: policy))
        return transfer._adapter_fault(context, tmp_path)  # pyright: ignore[reportArgumentType]

    assert reason(trained, "a" * 64) == ""
    assert "is for tiny (sha256 aaaaaaaaaaaa), not for tiny" in reason(trained, "b" * 64)
    assert reason(transfer.transfer_config(trained, HOSTED), "a" * 64) == "no provider's model takes"
