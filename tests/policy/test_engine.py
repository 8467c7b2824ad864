"""The engine against transformers' own `generate`, and what a request may ask for."""

import random
import threading
import warnings
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy.engine import PendingRequest, PolicyEngine, sampling_speed
from sia_runner.policy.sampling import PromptCache, _cache_argument
from sia_runner.wire.failures import CallError
from tests.policy.checkpoints import adapter, ask, checkpoint, generate, no_texts, spec


def prompts(count):
    dice = random.Random(0)
    return ["".join(dice.choice("0123456789+= abc") for _ in range(dice.randrange(1, 40))) for _ in range(count)]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt_oss"])
def test_greedy_answers_are_those_of_generate(kind, tmp_path):
    """A batch of prompts of many lengths, against transformers one prompt at a time."""
    engine = PolicyEngine(spec(checkpoint(tmp_path / kind, kind)), tmp_path, no_texts)
    asks = [ask(text, max_tokens=random.Random(text).randrange(1, 25)) for text in prompts(12)]
    for one, answer in zip(asks, generate(engine, asks), strict=True):
        ids = torch.tensor([engine.prompt_ids(one)])
        expected = engine.model.generate(ids, max_new_tokens=one.max_tokens, do_sample=False)[0, ids.shape[1] :]
        assert list(answer.completion_ids) == expected.tolist()


@pytest.mark.parametrize("kind", ["qwen3", "gpt_oss"])
def test_recorded_logprobs_are_those_of_a_forward_pass(kind, tmp_path):
    """What training computes from the token ids is what was recorded while sampling."""
    engine = PolicyEngine(spec(checkpoint(tmp_path / kind, kind)), tmp_path, no_texts)
    answers = generate(engine, [ask(text, temperature=0.8, max_tokens=20, seed=1) for text in prompts(8)])
    for sampled in answers:
        ids = torch.tensor([[*sampled.prompt_ids, *sampled.completion_ids]])
        with torch.no_grad():
            logprob_tv = (engine.model(ids).logits[0] / 0.8).log_softmax(-1)
        start = len(sampled.prompt_ids)
        expected = [logprob_tv[start - 1 + t, token].item() for t, token in enumerate(sampled.completion_ids)]
        assert sampled.logprobs == pytest.approx(expected, abs=2e-4)


def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch(engine):
    """At temperature 1 in float32: batches differ by 1e-6 in a logit, which turns a throw about once in 1e5 tokens."""
    mine = [ask(text, temperature=1.0, max_tokens=20, seed=seed) for seed, text in enumerate(prompts(6))]
    alone = [generate(engine, [one])[0] for one in mine]
    others = [ask(text, temperature=0.7, top_p=0.9, max_tokens=30, seed=9) for text in prompts(10)]
    together = generate(engine, [*others, *mine])[10:]
    assert [one.completion_ids for one in together] == [one.completion_ids for one in alone]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt_oss"])
def test_sampling_warns_of_nothing_with_and_without_an_adapter(kind, tmp_path):
    """A warning would stand in the middle of a run's output."""
    engine = PolicyEngine(spec(checkpoint(tmp_path / kind, kind)), tmp_path, no_texts)
    trained = adapter(tmp_path / "adapter", engine, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(engine, [ask("1+1="), ask("1+", weights=trained)])


def test_the_cache_has_its_older_name_where_a_model_knows_no_other():
    class Older:
        def forward(self, input_ids, past_key_values=None): ...

    class Newer:
        def forward(self, input_ids, cache=None): ...

    assert [_cache_argument(model) for model in (Older(), Newer())] == ["past_key_values", "cache"]


def test_a_longer_bound_only_adds_tokens(engine):
    short, long = (generate(engine, [ask("1+1", temperature=1.0, seed=3, max_tokens=n)])[0] for n in (4, 12))
    assert long.completion_ids[:4] == short.completion_ids


def test_without_a_seed_every_answer_is_another(engine):
    answers = generate(engine, [ask("1+1", temperature=1.0, max_tokens=20)] * 4)
    assert len({answer.completion_ids for answer in answers}) == 4


def test_an_answer_ends_before_its_stop_string_and_keeps_what_was_sampled(engine):
    whole = generate(engine, [ask("7", temperature=1.0, seed=5, max_tokens=30)])[0]
    mark = whole.text[5:8]
    first = whole.text.find(mark)
    cut = generate(engine, [ask("7", temperature=1.0, seed=5, max_tokens=30, stop=("never said", mark))])[0]
    assert cut.text == whole.text[:first]
    assert cut.finish_reason == "stop"
    length = len(cut.completion_ids)
    assert cut.completion_ids == whole.completion_ids[:length] and length < 30
    assert mark in engine.tokenizer.decode(cut.completion_ids)


def test_an_end_mark_is_sampled_and_not_shown(engine):
    answers = generate(engine, [ask("1", temperature=3.0, max_tokens=80, seed=seed) for seed in range(40)])
    ended = [answer for answer in answers if answer.finish_reason == "stop"]
    assert ended, "of 40 random answers one should meet the end mark"
    for answer in ended:
        assert answer.completion_ids[-1] == engine.tokenizer.eos_token_id
        assert "<|end|>" not in answer.text


def test_a_prompt_longer_than_the_context_is_refused_as_openai_does(engine):
    with pytest.raises(CallError) as refused:
        generate(engine, [ask("1"), ask("x y " * 100)])
    assert (refused.value.kind, refused.value.status) == ("bad_request", 400)
    assert refused.value.code == "context_length_exceeded"
    assert "maximum context length is 96 tokens" in refused.value.message


def test_an_answer_ends_with_the_context(engine):
    one = ask("1" * 80, max_tokens=1000, temperature=0.0)
    sampled = generate(engine, [one])[0]
    assert len(sampled.prompt_ids) + len(sampled.completion_ids) <= 96
    assert sampled.finish_reason in ("stop", "length")


def test_no_request_is_answered_while_weights_are_trained(engine):
    answered = threading.Event()
    version = engine.version
    with engine.training() as model:
        assert model.training
        thread = threading.Thread(target=lambda: (generate(engine, [ask("1", max_tokens=2)]), answered.set()))
        thread.start()
        assert not answered.wait(0.3)
    thread.join(10)
    assert answered.is_set() and not engine.model.training
    assert engine.version != version, "trained weights are another version"
    engine.use(None)
    assert engine.version == "base"


class Arrivals:
    """Requests that arrive one after the other while others are answered: the n-th after n questions for how many."""

    def __init__(self, engine, requests, answers, begin=0):
        self._left = [
            PendingRequest(one, engine.prompt_ids(one), partial(answers.__setitem__, at))
            for at, one in enumerate(requests)
        ][begin:]
        self._asked, self.taken = 0, []

    def count(self):
        self._asked += 1
        return min(len(self._left), self._asked - sum(self.taken))

    def take(self, weights, most):
        self.taken.append(most)
        taken, self._left = self._left[:most], self._left[most:]
        return taken


@pytest.mark.parametrize("capacity", [2, 5, 64])
def test_requests_take_the_places_of_those_that_were_answered_and_get_the_answers_that_they_would_alone(
    engine, capacity, monkeypatch
):
    monkeypatch.setattr(engine, "spec", engine.spec.model_copy(update={"max_batch_size": capacity}))
    asks = [
        ask(text, temperature=float(at % 3), max_tokens=2 + 5 * (at % 4), seed=at)
        for at, text in enumerate(prompts(20))
    ]
    alone = [generate(engine, [one])[0] for one in asks]
    answers = {}
    arrivals = Arrivals(engine, asks[2:], answers)
    first = [
        PendingRequest(one, engine.prompt_ids(one), partial(answers.__setitem__, -at - 1))
        for at, one in enumerate(asks[:2])
    ]
    engine.answer(first, arrivals)
    joined = sum(arrivals.taken)
    assert joined > 3 and max(arrivals.taken) <= capacity
    results = [answers[-1], answers[-2], *(answers[at] for at in range(joined))]
    for one, other in zip(results, alone, strict=False):
        assert one.completion_ids == other.completion_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_none_joins_where_layers_drop_the_beginning_of_a_text(tmp_path):
    engine = PolicyEngine(spec(checkpoint(tmp_path / "base", "gpt_oss")), tmp_path, no_texts)
    answers = {}
    arrivals = Arrivals(engine, [ask("1")] * 9, {})
    engine.answer([PendingRequest(ask("2"), engine.prompt_ids(ask("2")), partial(answers.__setitem__, 0))], arrivals)
    assert arrivals.taken == [] and answers[0].completion_ids


def test_a_request_that_is_withdrawn_ends_at_the_next_token_and_the_others_are_answered(engine):
    polls = iter(range(1000))
    asks = [ask(text, temperature=1.0, seed=7, max_tokens=20, stop=()) for text in ("1+1=", "hello")]
    full = generate(engine, asks)
    assert min(len(answer.completion_ids) for answer in full) > 6
    prompts_of = [engine.prompt_ids(one) for one in asks]
    cut, whole = engine.sample(asks, prompts_of, [lambda: next(polls) >= 3, lambda: False])
    assert cut.completion_ids == full[0].completion_ids[: len(cut.completion_ids)]
    assert 0 < len(cut.completion_ids) < 6 and whole.completion_ids == full[1].completion_ids
    none = engine.sample(asks, [[5, *ids] for ids in prompts_of], [lambda: True] * 2)
    assert [answer.completion_ids for answer in none] == [(), ()], "not even the prompts are read"


def test_prompts_that_are_read_in_pieces_give_the_same_answers(engine, monkeypatch):
    """One pass cannot be interrupted: it is bounded."""
    asks = [ask(text, temperature=1.0, seed=7) for text in prompts(7)]
    whole = generate(engine, asks)
    monkeypatch.setattr("sia_runner.policy.sampling._PIECE_TOKENS", 60)
    engine._prefixes = PromptCache()
    pieces = generate(engine, asks)
    assert [one.completion_ids for one in pieces] == [one.completion_ids for one in whole]
    for one, other in zip(pieces, whole, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_measuring_the_speed_changes_no_later_answer(tmp_path):
    first, second = (PolicyEngine(spec(checkpoint(tmp_path / name)), tmp_path, no_texts) for name in ("a", "b"))
    assert 0 < sampling_speed(first) < 1e6
    unseeded = [ask("12+7=", temperature=1.0)]
    assert generate(first, unseeded)[0].completion_ids == generate(second, unseeded)[0].completion_ids
    assert first.version == second.version == "base"
