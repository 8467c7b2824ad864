"""A harness's clients talk to the policy through the gateway as to any provider."""

import asyncio
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import replace

import anthropic
import openai
import pytest

pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.backends import policy_endpoint
from sia_runner.gateway.calls import CallRunner
from sia_runner.gateway.ledger import RunLedger
from sia_runner.gateway.prices import price_of
from sia_runner.gateway.server import GatewayServer
from sia_runner.policy.backend import PolicyBackend, policy_provider
from sia_runner.policy.engine import RequestBatcher
from sia_runner.records import SampledCall
from sia_runner.wire.grants import Grant
from tests.gateway.gateway_kit import HI, Guest
from tests.policy.checkpoints import ask, generate


class Scene:
    """The gateway on a loop of its own, with the policy behind the target role."""

    def __init__(self, engine, folder):
        self.engine, self.folder = engine, folder
        self.batching = RequestBatcher(lambda: engine)
        self.ledger = RunLedger(folder / "ledger", BudgetConfig(), {"target": price_of(policy_provider(engine.spec))})
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self._start())

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _start(self):
        endpoint = policy_endpoint(PolicyBackend(self.engine.spec, self.batching))
        self.gateway = GatewayServer({"target": endpoint}, CallRunner(self.ledger), self.folder / "cache")
        await self.gateway.start()

    @contextmanager
    def session(self, **changes):
        """The runner's own decisions about a request are `changes` of the grant."""
        grant = Grant("target", 1, "gen_1", "rollout", self.folder / "trajectories.jsonl", sample=0)
        grant = replace(grant, **changes)
        context = self.gateway.session(grant)
        stay = self.run(context.__aenter__())
        try:
            yield Guest(stay)
        finally:
            self.run(context.__aexit__(None, None, None))

    @property
    def kept(self):
        """What the file says was sampled, with its question."""
        kept = []
        for record in self.records():
            tokens = record["tokens"]
            if tokens is None:
                continue
            ids = [tuple(tokens[name]) for name in ("prompt_ids", "completion_ids", "logprobs")]
            sampled = SampledCall(*ids, tokens["finish_reason"], tokens["adapter"], record["response"]["text"])
            kept.append((record["question"], sampled))
        return kept

    def records(self):
        return [json.loads(line) for line in (self.folder / "trajectories.jsonl").read_text().splitlines()]

    def close(self):
        self.run(self.gateway.close())
        self.batching.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self.ledger.close()


@pytest.fixture
def scene(engine, tmp_path):
    made = Scene(engine, tmp_path)
    yield made
    made.close()


def chat(guest, text="1+1=", **settings):
    messages = [{"role": "user", "content": text}]
    return guest.openai(max_retries=0).chat.completions.create(model="any", messages=messages, **settings)


def test_an_openai_client_gets_the_engines_answer_and_its_tokens_are_counted(scene, engine):
    expected = generate(engine, [ask("1+1=", temperature=0.9, seed=4, max_tokens=10)])[0]
    with scene.session() as guest:
        answer = chat(guest, temperature=0.9, seed=4, max_tokens=10, user="q1")
        usage = guest.session.usage()
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    used, made = len(expected.prompt_ids), len(expected.completion_ids)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (used, made)
    assert (usage.calls, usage.tokens, usage.usd) == (1, used + made, 0.0)
    assert scene.kept == [("q1", expected)]
    (record,) = scene.records()
    assert (record["question"], record["response"]["text"]) == ("q1", expected.text)
    assert record["finish_reason"] == expected.finish_reason and record["error"] is None


@pytest.mark.parametrize(
    "settings", [{"top_p": 0.3, "temperature": 2.0}, {"stop": ["never said", "a"], "temperature": 1.0}]
)
def test_every_sampling_setting_of_a_request_is_honoured(settings, scene, engine):
    """Against the engine with the same settings, and not what it says without them."""
    with scene.session() as guest:
        answer = chat(guest, seed=11, max_tokens=20, **settings)
        chat(guest, seed=11, max_tokens=20, temperature=settings["temperature"])
    expected = generate(engine, [ask("1+1=", seed=11, max_tokens=20, **settings)])[0]
    assert answer.choices[0].message.content == expected.text
    assert scene.kept[0][1].completion_ids == expected.completion_ids != scene.kept[1][1].completion_ids


def test_settings_that_ask_for_nothing_are_no_reason_to_refuse(scene):
    with scene.session() as guest:
        neutral = {"top_k": -1, "repetition_penalty": 1.0, "min_p": 0.0}
        assert chat(guest, max_tokens=2, n=1, presence_penalty=0, tools=[], extra_body=neutral).choices


def test_an_anthropic_client_that_begins_the_answer_itself_is_told_that_this_is_not_served(scene):
    messages = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "It is"}]
    with scene.session() as guest, pytest.raises(anthropic.BadRequestError, match="assistant"):
        guest.anthropic(max_retries=0).messages.create(model="any", max_tokens=5, messages=messages)


def test_a_request_that_names_nothing_gets_the_specs_defaults(scene, engine):
    with scene.session() as guest:
        chat(guest)
    greedy = generate(engine, [ask("1+1=", max_tokens=engine.spec.max_tokens)])[0]
    assert scene.kept[0][1] == greedy


def test_logprobs_are_given_when_asked_for(scene):
    with scene.session() as guest:
        asked, plain = chat(guest, logprobs=True, max_tokens=5), chat(guest, max_tokens=5)
    assert plain.choices[0].logprobs is None
    shown = asked.choices[0].logprobs.content
    assert [one.logprob for one in shown] == pytest.approx(scene.kept[0][1].logprobs)
    assert "".join(one.token for one in shown if not one.token.startswith("<|")) == asked.choices[0].message.content


def test_a_stream_says_the_same_in_chunks(scene):
    settings = {"temperature": 1.0, "seed": 2, "max_tokens": 10}
    with scene.session() as guest:
        whole = chat(guest, **settings)
        chunks = list(chat(guest, stream=True, stream_options={"include_usage": True}, **settings))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize("stream", [False, True])
def test_an_anthropic_client_is_answered_too(stream, scene, engine):
    expected = generate(
        engine,
        [replace(ask("1+1="), messages=({"role": "system", "content": "add"}, *ask("1+1=").messages), max_tokens=9)],
    )[0]
    with scene.session() as guest:
        client = guest.anthropic(max_retries=0)
        settings = {"model": "any", "max_tokens": 9, "system": "add"}
        messages = [{"role": "user", "content": "1+1="}]
        if stream:
            with client.messages.stream(messages=messages, **settings) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(messages=messages, **settings)
    assert "".join(block.text for block in message.content) == expected.text
    assert message.usage.output_tokens == len(expected.completion_ids)
    assert message.stop_reason == {"stop": "end_turn", "length": "max_tokens"}[expected.finish_reason]


def test_what_the_policy_cannot_do_is_refused_by_name(scene):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    wrong = [
        ({"tools": [tool]}, "tools is not served.*template has no place"),
        ({"tools": [tool], "tool_choice": "required"}, "tool_choice is not served"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "functions with a name"),
        ({"reasoning_effort": "low"}, "reasoning_effort is not served.*template has no place"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort must be one of low, medium, high"),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"n": 2}, "n is at most 1"),
        ({"extra_body": {"repetition_penalty": 1.2}}, "repetition_penalty"),
        ({"temperature": 9.0}, "temperature.*0 to 2"),
        ({"top_p": -1.0}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"text": "1 " * 300}, "maximum context length"),
    ]
    with scene.session() as guest:
        for settings, message in wrong:
            with pytest.raises(openai.BadRequestError, match=message):
                chat(guest, **settings)
        assert chat(guest, max_tokens=3).choices, "and nothing is broken by it"
        assert guest.session.trouble() is None


def test_a_prompt_that_is_too_long_has_openais_code(scene):
    with scene.session() as guest, pytest.raises(openai.BadRequestError) as refused:
        chat(guest, "1 " * 300)
    assert refused.value.code == "context_length_exceeded"


def test_the_runner_decides_weights_temperature_and_seed_of_a_rollout(scene, engine):
    with scene.session(temperature=1.0, seed="7", live=True) as guest:
        chat(guest, temperature=0.0, seed=1, max_tokens=10, user="q1")
        chat(guest, temperature=0.0, seed=1, max_tokens=10, user="q1")
    for turn, (_, sampled) in enumerate(scene.kept):
        seed = int.from_bytes(hashlib.sha256(f"7 q1 {turn}".encode()).digest()[:4]) >> 1
        assert sampled == generate(engine, [ask("1+1=", temperature=1.0, seed=seed, max_tokens=10)])[0]


def test_without_a_file_the_finished_calls_of_a_question_stay_in_memory(scene):
    """The same records as in the file; a call without a question, or that failed, is none of them."""
    for trajectories in (scene.folder / "trajectories.jsonl", None):
        with scene.session(trajectories=trajectories, temperature=1.0, seed="7") as guest:
            chat(guest, max_tokens=5)
            for text in ("1+1=", "2+2="):
                chat(guest, text, max_tokens=5, user="q1")
            guest.anthropic().messages.create(
                model="any", max_tokens=5, messages=HI, metadata={"user_id": "q2"}, stream=False
            )
            with pytest.raises(openai.BadRequestError):
                chat(guest, user="q3", n=2)
    calls = [(question, call) for question, of_question in guest.session.sampled.items() for call in of_question]
    assert calls == [(question, call) for question, call in scene.kept if question]
    assert [question for question, _ in calls] == ["q1", "q1", "q2"]


def test_concurrent_callers_get_their_own_answers(scene, engine):
    texts = [f"{number}+1=" for number in range(24)]
    with scene.session() as guest:
        answers = guest.ask_all(texts, threads=12)
    # ask_all bounds answers at 64 tokens
    assert answers == [generate(engine, [ask(text, max_tokens=64)])[0].text for text in texts]
    assert {question for question, _ in scene.kept} == set(texts)


def test_a_policy_that_breaks_is_an_infrastructure_failure(scene, tmp_path):
    with scene.session(adapter=tmp_path / "gone") as guest:
        with pytest.raises(openai.APIStatusError, match="the policy failed"):
            chat(guest, user="q1")
        assert guest.session.faults().questions == {"q1": "rate_limited"}
