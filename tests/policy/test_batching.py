"""Concurrent requests become batches; one bad request, or one that is taken back, is its own affair."""

import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy.engine import PolicyEngine, RequestBatcher
from sia_runner.wire.failures import CallError
from tests.policy.checkpoints import adapter, ask, checkpoint, generate, no_texts, spec


class Watched:
    """The engine, and how many asks came together."""

    joins = False  # whether requests join a batch that is at work

    def __init__(self, engine, **changes):
        self._engine, self.sizes, self.gate = engine, [], threading.Event()
        self.spec = engine.spec.model_copy(update=changes)
        self.gate.set()

    def prompt_ids(self, one):
        return self._engine.prompt_ids(one)

    def answer(self, pending, waiting=None):
        self.sizes.append(len(pending))
        self.gate.wait(10)
        self._engine.answer(pending, waiting if self.joins else None)


@pytest.fixture
def serve(engine):
    made = []

    def start(**changes):
        watched = Watched(engine, **changes)
        batching = RequestBatcher(lambda: watched)
        batching.start()
        made.append((watched, batching))
        return watched, batching

    yield start
    for watched, batching in made:
        watched.gate.set()
        batching.close()


def test_requests_that_come_together_are_one_batch_and_each_gets_its_own_answer(serve, engine):
    watched, batching = serve(batch_wait_ms=500.0, max_batch_size=5)
    asks = [ask(str(number), temperature=1.0, seed=number) for number in range(5)]
    answers = [future.result(30) for future in [batching.submit(one) for one in asks]]
    assert watched.sizes == [5]
    assert [one.completion_ids for one in answers] == [generate(engine, [one])[0].completion_ids for one in asks]


def test_a_batch_has_a_bound(serve):
    watched, batching = serve(batch_wait_ms=200.0, max_batch_size=3)
    for future in [batching.submit(ask("1", max_tokens=2)) for _ in range(7)]:
        future.result(30)
    assert max(watched.sizes) <= 3 and sum(watched.sizes) == 7


class Joined(Watched):
    """Waits for more requests before it answers, and takes them into its batch."""

    def answer(self, pending, waiting):
        self.gate.wait(10)
        count = waiting.count()
        more = waiting.take(pending[0].request.weights, count)
        self.sizes.append((len(pending), count, len(more)))
        self._engine.answer([*pending, *more])


def joined(engine, later):
    """Submit a request, and `later` while it is answered; return the sizes of batches and how many joined them."""
    watched = Joined(engine, batch_wait_ms=1.0)
    batching = RequestBatcher(lambda: watched)
    batching.start()
    watched.gate.clear()
    futures = [batching.submit(ask("1", max_tokens=2))]
    while not batching._waiting.empty():
        time.sleep(0.01)
    time.sleep(0.1)
    futures += [batching.submit(one) for one in later]
    if later:
        futures[-1].cancel()
    watched.gate.set()
    outcomes = [future.exception(30) or future.result() for future in futures[:-1]]
    batching.close()
    return watched.sizes, outcomes


def test_requests_join_the_batch_at_work_but_for_those_that_are_refused_or_withdrawn(engine):
    later = [ask("2", max_tokens=2), ask("1 " * 200), ask("3", max_tokens=2), ask("4", max_tokens=2)]
    sizes, (first, second, refused, third) = joined(engine, later)
    assert sizes == [(1, 4, 2)]
    assert first.completion_ids and second.completion_ids and third.completion_ids
    assert isinstance(refused, CallError)


def test_a_request_for_other_weights_is_in_the_next_batch_and_none_overtakes_it(tmp_path):
    engine = PolicyEngine(spec(checkpoint(tmp_path / "base")), tmp_path, no_texts)
    other = adapter(tmp_path / "adapter", engine, 1)
    later = [ask("2", max_tokens=2), replace(ask("3", max_tokens=2), weights=other), ask("4", max_tokens=2), ask("5")]
    sizes, outcomes = joined(engine, later)
    assert sizes[0] == (1, 4, 1)
    assert [outcome.adapter for outcome in outcomes[:2]] == ["base", "base"]
    assert outcomes[2].adapter != "base" and outcomes[3].adapter == "base"


def test_a_lonely_request_waits_no_longer_than_the_window(serve):
    _, batching = serve(batch_wait_ms=1.0)
    began = time.monotonic()
    batching.submit(ask("1", max_tokens=1)).result(30)
    assert time.monotonic() - began < 5


def test_a_request_that_is_refused_takes_no_other_with_it(serve):
    _, batching = serve(batch_wait_ms=200.0)
    good, bad = batching.submit(ask("1", max_tokens=2)), batching.submit(ask("1 " * 200))
    assert good.result(30).completion_ids
    with pytest.raises(CallError, match="maximum context length"):
        bad.result(30)


def test_what_breaks_the_engine_is_no_fault_of_the_request_and_the_next_one_is_answered(serve, tmp_path):
    _, batching = serve(batch_wait_ms=1.0)
    lost = batching.submit(replace(ask("1"), weights=tmp_path / "gone"))
    with pytest.raises(CallError, match="PolicyError") as failed:
        lost.result(30)
    assert failed.value.kind == "unreachable" and not failed.value.transient
    assert batching.submit(ask("1", max_tokens=2)).result(30)


def test_a_request_can_be_taken_back_before_its_batch_begins(serve):
    watched, batching = serve(batch_wait_ms=1.0)
    watched.gate.clear()
    running = batching.submit(ask("1", max_tokens=2))
    while not watched.sizes:
        time.sleep(0.01)
    waiting = batching.submit(ask("2", max_tokens=2))
    assert waiting.cancel()
    watched.gate.set()
    running.result(30)
    batching.submit(ask("3", max_tokens=2)).result(30)
    assert watched.sizes == [1, 1]


class Endless(Watched):
    """Decodes until nobody wants an answer, as a slow machine does."""

    def answer(self, pending, waiting=None):
        self.sizes.append(len(pending))
        while not all(one.withdrawn() for one in pending):
            time.sleep(0.01)
        super().answer(pending)


@pytest.fixture
def endless(engine):
    watched = Endless(engine, batch_wait_ms=1.0)
    batching = RequestBatcher(lambda: watched)
    batching.start()
    yield watched, batching
    batching.close()


def test_a_request_is_taken_back_in_the_middle_of_its_batch(endless):
    """As when the sandbox of its harness has reached its time limit: the next stage must not wait for it."""
    watched, batching = endless
    running = batching.submit(ask("1"))
    while not watched.sizes:
        time.sleep(0.01)
    assert running.cancel()
    following = batching.submit(ask("2"))
    while len(watched.sizes) < 3:
        time.sleep(0.01)
    assert following.cancel()


def test_closing_ends_the_batch_under_way_and_lets_all_go(endless):
    watched, batching = endless
    running, waiting = batching.submit(ask("1")), None
    while not watched.sizes:
        time.sleep(0.01)
    waiting = batching.submit(ask("2"))
    began = time.monotonic()
    batching.close()
    assert time.monotonic() - began < 2
    for future in (running, waiting, batching.submit(ask("3"))):
        with pytest.raises(CancelledError):
            future.result(5)
    batching.close()


def test_the_weights_are_loaded_once_and_only_when_they_are_needed(engine):
    loads = []
    batching = RequestBatcher(lambda: loads.append(1) or engine)
    assert loads == []
    threads = [threading.Thread(target=batching.start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batching.close()
    assert loads == [1]
