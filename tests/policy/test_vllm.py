"""`backend=vllm` against a real HTTP server with vLLM's endpoint names, backed by our own engine: nothing here has met
vLLM itself."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("aiohttp", reason="the models extra is not installed")

from aiohttp import web

from sia_runner.config.training import LoraSettings
from sia_runner.policy.backend import check_policy
from sia_runner.policy.engine import PolicyEngine
from sia_runner.policy.remote import RequestForwarder
from sia_runner.policy.vllm import VllmPolicy
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ModelsError, ProviderDown
from sia_runner.wire.learning import StepSettings, TokenWeights, TrainingRow
from sia_runner.wire.policy import LIVE_WEIGHTS, PolicyError
from tests.policy.checkpoints import adapter, ask, checkpoint, generate, no_texts, spec
from tests.policy.vllm_server import VllmServer

ASKS = [ask(text, temperature=1.0, seed=seed, max_tokens=20) for seed, text in enumerate(("1+1=", "19+7=", "hello"))]


@pytest.fixture
def served(tmp_path):
    """Starts servers of one base, with an engine of their own; they end with the test."""
    base, started = checkpoint(tmp_path / "base"), []

    def start(**settings):
        (tmp_path / f"server{len(started)}").mkdir()
        engine = PolicyEngine(spec(base, trust_base=True), tmp_path, no_texts)  # a server asks for no origin
        started.append(VllmServer(engine, tmp_path / f"server{len(started)}", **settings))
        return started[-1]

    yield start
    for server in started:
        server.close()


def remote(server, **changes):
    return spec(server.engine.base_id, backend="vllm", base_url=server.url, **changes)


def policy_at(server, folder):
    """The policy, and how often its training copy was made."""
    asked, copies = remote(server), []

    def load():
        copies.append(PolicyEngine(asked, folder, no_texts))
        return copies[-1]

    return VllmPolicy(asked, folder / "served", load), copies


def drawn(answers):
    return [(answer.text, answer.completion_ids, answer.finish_reason) for answer in answers]


def local(tmp_path, server):
    return PolicyEngine(spec(server.engine.base_id), tmp_path, no_texts)


def test_answers_are_those_of_the_server_without_a_copy_of_the_weights_here(served, tmp_path):
    server = served()
    policy, copies = policy_at(server, tmp_path)
    here = local(tmp_path, server)
    expected = generate(here, ASKS)
    answers = [policy.answer(one) for one in ASKS]
    assert drawn(answers) == drawn(expected)
    for answer, other in zip(answers, expected, strict=True):
        assert answer.prompt_ids == other.prompt_ids
        assert answer.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert answer.adapter == "base"
    assert copies == []


def test_sampling_settings_reach_the_server(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    policy.answer(ask("7", temperature=0.7, top_p=0.9, seed=5, stop=("x",), max_tokens=9))
    body = server.asked[-1]
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (0.7, 0.9, 5, ["x"])
    assert body["max_tokens"] == 9 and body["return_token_ids"] is True
    policy.answer(ask("7", max_tokens=10_000))
    assert server.asked[-1]["max_tokens"] == 96 - len(server.asked[-1]["prompt"])


def test_without_a_seed_every_answer_is_another(served, tmp_path):
    policy, _ = policy_at(served(), tmp_path)
    answers = [policy.answer(ask("1+1", temperature=1.0, max_tokens=20)) for _ in range(4)]
    assert len({answer.completion_ids for answer in answers}) == 4


def test_a_prompt_longer_than_the_servers_context_is_refused_here(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    asked = len(server.asked)
    with pytest.raises(CallError, match="96 tokens") as refused:
        policy.answer(ask("x y " * 100))
    assert refused.value.code == "context_length_exceeded" and len(server.asked) == asked


def test_adapters_are_switched_by_what_they_hold(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    here = local(tmp_path, server)
    first, second = (adapter(tmp_path / name, here, seed) for name, seed in (("a", 1), ("b", 2)))
    for folder in (first, second, None, first):
        assert policy.use(folder) == here.use(folder) == policy.version
        assert drawn(policy.answer(one) for one in ASKS) == drawn(generate(here, ASKS))
    other = policy.answer(replace(ASKS[0], weights=second))
    assert other.adapter != policy.version
    assert drawn([other]) == drawn(generate(here, [replace(ASKS[0], weights=second)]))
    assert len(server.loads) == 2, "each is loaded once"


def test_only_a_few_adapters_stay_at_the_server_and_none_after_the_end(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    here = local(tmp_path, server)
    folders = [adapter(tmp_path / str(seed), here, seed) for seed in range(6)]
    for folder in folders:
        policy.use(folder)
    assert len(server.adapters) == 4
    policy.use(folders[0])
    assert drawn([policy.answer(ASKS[0])]) == drawn(generate(here, [replace(ASKS[0], weights=folders[0])]))
    policy.close()
    assert server.adapters == {}


def test_a_server_that_was_started_again_gets_the_adapter_again(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    policy.use(adapter(tmp_path / "a", local(tmp_path, server), 1))
    before = policy.answer(ASKS[0])
    server.restart()
    assert policy.answer(ASKS[0]) == before


def test_an_adapter_of_another_base_is_refused(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    foreign = adapter(tmp_path / "a", local(tmp_path, server), 1, base_sha256="0" * 64)
    with pytest.raises(PolicyError, match="base"):
        policy.use(foreign)
    assert policy.version == "base" and server.loads == []


def test_an_adapter_of_a_service_is_loaded_where_the_user_vouches_for_the_base(served, tmp_path):
    server = served()
    doubting, _ = policy_at(server, tmp_path)
    folder = adapter(
        tmp_path / "a", local(tmp_path, server), 1, base_sha256="0" * 64, service={"state": "tinker://m/w"}
    )
    with pytest.raises(PolicyError, match=r"target_agent\.policy\.trust_base=true"):
        doubting.use(folder)
    trusting = VllmPolicy(remote(server, trust_base=True), tmp_path / "served", lambda: local(tmp_path, server))
    trusting.use(folder)
    trusting.answer(ASKS[0])
    assert server.loads


def test_what_the_server_says_of_an_adapter_that_it_cannot_take_is_passed_on_in_one_line(served, tmp_path):
    server = served(rank=2)
    policy, _ = policy_at(server, tmp_path)
    with pytest.raises(PolicyError, match="rank 4.*max_lora_rank 2"):
        policy.use(adapter(tmp_path / "a", local(tmp_path, server), 1))


def test_a_rank_that_the_server_does_not_take_is_found_before_anything_is_trained(served, tmp_path):
    server = served(rank=8)
    policy, copies = policy_at(server, tmp_path)
    policy.sampler.check_adapter("model.layers.0.self_attn.q_proj", 64, 64, 8)
    assert server.adapters == {} and not list((tmp_path / "served").iterdir())
    with pytest.raises(PolicyError, match=r"trainer\.lora\.rank=9: .*max_lora_rank 8.*--max-lora-rank 9") as refused:
        policy.sampler.check_adapter("model.layers.0.self_attn.q_proj", 64, 64, 9)
    assert "\n" not in str(refused.value) and copies == []


def steps(learner, rows, count=1):
    for _ in range(count):
        learner.backward(rows, lambda part: TokenWeights([np.ones(len(one)) for one in part.logprobs]))
        learner.step(StepSettings(0.05))


def rows_of(answers):
    return [TrainingRow(answer.prompt_ids, answer.completion_ids) for answer in answers]


def test_what_is_published_answers_under_a_name_of_its_own_and_is_gone_afterwards(served, tmp_path):
    server = served()
    policy, copies = policy_at(server, tmp_path)
    untrained = [policy.answer(one) for one in ASKS]
    rows, versions = rows_of(untrained), []
    with policy.learner(LoraSettings(rank=4), None, 0, critic=False, work=tmp_path / "work") as learner:
        assert learner.publish() == policy.version == "base+1"
        assert drawn(policy.answer(one) for one in ASKS) == drawn(untrained), "a new adapter changes nothing"
        for _ in range(3):
            steps(learner, rows)
            versions.append(learner.publish())
            answer = policy.answer(ASKS[0])
            assert drawn([answer]) == drawn(generate(copies[0], [ASKS[0]]))
            assert answer.logprobs == pytest.approx(generate(copies[0], [ASKS[0]])[0].logprobs, abs=1e-5)
            assert answer.adapter == versions[-1] == policy.version
            assert len(server.adapters) == 1, "the version before is unloaded"
    assert versions == ["base+2", "base+3", "base+4"] and len(copies) == 1
    assert len({name for name, _ in server.loads}) == 4, "a name is never used for another adapter"
    assert policy.use(None) == "base"
    assert policy.answer(ASKS[0]) == untrained[0]
    policy.close()
    assert not server.adapters and not list((tmp_path / "served").iterdir()), (
        "no version is left at the server, or here"
    )


def test_the_server_scores_rows_with_the_weights_that_it_serves(served, tmp_path):
    """A server that does not apply the adapter gives the base's numbers: that is how it is noticed."""
    policy, _ = policy_at(served(), tmp_path)
    rows = rows_of([policy.answer(one) for one in ASKS])
    with policy.learner(LoraSettings(rank=4), None, 0, critic=False, work=tmp_path / "work") as learner:
        steps(learner, rows, 3)
        learner.publish()
        for weights, expected in ((LIVE_WEIGHTS, learner.forward(rows)), (None, learner.forward(rows, base=True))):
            scores = policy.sampler.score(rows, weights)
            assert [len(score) for score in scores] == [len(row.completion_ids) for row in rows]
            assert np.concatenate(scores) == pytest.approx(np.concatenate(expected.logprobs), abs=1e-5)
        base, live = policy.sampler.score(rows, None), policy.sampler.score(rows, LIVE_WEIGHTS)
        assert np.abs(np.concatenate(base) - np.concatenate(live)).max() > 0.1


def test_a_version_is_unloaded_when_its_last_request_has_ended(served, tmp_path):
    server, waiting, go_on = served(), threading.Event(), threading.Event()
    policy, _ = policy_at(server, tmp_path)
    real = policy.sampler._server.complete

    def complete(*arguments, **settings):
        waiting.set()
        go_on.wait(20)
        return real(*arguments, **settings)

    with policy.learner(LoraSettings(rank=4), None, 0, critic=False, work=tmp_path / "work") as learner:
        first = learner.publish()
        policy.sampler._server.complete = complete
        forwarder = RequestForwarder(lambda: policy)
        answer = forwarder.submit(ASKS[0])
        assert waiting.wait(20)
        learner.publish()
        assert len(server.adapters) == 2, "a request is under way with the first"
        go_on.set()
        assert answer.result(30).adapter == first
        assert [*server.adapters] == [server.loads[-1][0]]


def test_a_server_that_was_started_again_gets_the_published_version_again(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    rows = rows_of([policy.answer(one) for one in ASKS])
    with policy.learner(LoraSettings(rank=4), None, 0, critic=False, work=tmp_path / "work") as learner:
        steps(learner, rows)
        learner.publish()
        before = policy.answer(ASKS[0])
        server.restart()
        assert policy.answer(ASKS[0]) == before
        server.close()
        with pytest.raises(ProviderDown):
            learner.publish()


def test_concurrent_requests_are_under_way_at_the_same_time(served, tmp_path):
    server, together = served(), threading.Barrier(4)
    policy, _ = policy_at(server, tmp_path)
    real = policy.sampler._server.complete

    def complete(*given, **settings):
        together.wait(20)  # nobody passes before four are here
        return real(*given, **settings)

    policy.sampler._server.complete = complete
    held = RequestForwarder(lambda: policy)
    futures = [held.submit(ask(str(number), max_tokens=2)) for number in range(4)]
    assert all(future.result(30).completion_ids for future in futures)


def test_what_fails_at_the_server_is_an_infrastructure_failure_of_the_request(served, tmp_path):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    held = RequestForwarder(lambda: policy)
    held.start()
    server.before = lambda request: web.json_response({"error": {"message": "engine died"}}, status=500)
    with pytest.raises(CallError, match="engine died") as failed:
        held.submit(ASKS[0]).result(30)
    assert failed.value.kind == "unreachable" and failed.value.transient
    server.before = lambda request: None
    with pytest.raises(CallError, match="PolicyError") as failed:
        held.submit(replace(ASKS[0], weights=tmp_path / "gone")).result(30)
    assert not failed.value.transient
    assert held.submit(ASKS[0]).result(30).completion_ids
    server.close()
    with pytest.raises(CallError, match="no answer from .*engine died.*log") as failed:
        held.submit(ASKS[0]).result(30)
    with pytest.raises(ProviderDown):
        policy.use(adapter(tmp_path / "a", local(tmp_path, server), 1))
    held.close()


def test_a_server_too_old_for_token_ids_is_named(served, tmp_path, monkeypatch):
    server = served()
    policy, _ = policy_at(server, tmp_path)
    shape = server.shape
    monkeypatch.setattr(server, "shape", lambda body, answer: shape(body | {"return_token_ids": False}, answer))
    with pytest.raises(CallError, match="return_token_ids"):
        policy.answer(ASKS[0])


def test_logprobs_without_the_temperature_are_refused_with_the_remedy(served, tmp_path):
    server = served(processed=False)
    with pytest.raises(PolicyError, match="--logprobs-mode processed_logprobs") as refused:
        policy_at(server, tmp_path)
    assert "\n" not in str(refused.value)


def test_a_sampled_token_far_below_the_likeliest_ones_is_no_sign_of_anything(served, tmp_path):
    """vLLM reports it beside those that were asked for: at temperature 2 it is often a rare one."""
    server = served()
    server.tail = True
    assert policy_at(server, tmp_path)[0].answer(ASKS[0])


# ---- preflight


def test_preflight_is_content_with_a_server_that_serves_the_base_and_takes_adapters(served):
    server = served()
    check_policy(remote(server))
    assert server.loads == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "other/base"}, "base.*other/base"),
        ({"lora": False}, "--enable-lora"),
    ],
)
def test_preflight_names_what_is_wrong_with_a_server(settings, says, served):
    server = served(**settings)
    began = time.monotonic()
    with pytest.raises(ModelsError, match=says) as refused:
        check_policy(remote(server))
    assert time.monotonic() - began < 1 and "\n" not in str(refused.value)


def test_preflight_finds_nobody_within_a_second(served):
    server = served()
    nobody = remote(server).model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    began = time.monotonic()
    with pytest.raises(ModelsError, match="http://127.0.0.1:9"):
        check_policy(nobody)
    assert time.monotonic() - began < 1.5


def test_a_key_is_sent_and_never_shown(served, monkeypatch):
    server = served()
    server.key = "very-secret-key"
    with pytest.raises(ModelsError, match="key"):
        check_policy(remote(server))
    monkeypatch.setenv("VLLM_API_KEY", "wrong-secret-key")
    with pytest.raises(ModelsError, match="VLLM_API_KEY") as refused:
        check_policy(remote(server))
    assert "secret" not in str(refused.value)
    monkeypatch.setenv("VLLM_API_KEY", server.key)
    check_policy(remote(server))


def test_preflight_needs_no_heavy_import():
    code = "import sys, sia_runner.policy.backend; print({'torch', 'transformers', 'peft'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
