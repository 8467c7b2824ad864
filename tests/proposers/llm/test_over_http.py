"""The loop over real HTTP: the room that the run uses, against the local provider."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sia_runner.config.components import HostedProvider
from sia_runner.config.experiment import BudgetConfig
from sia_runner.experiment.workbench import RecordedReplies
from sia_runner.gateway.service import GatewayService
from sia_runner.proposers.protocol import Files, Message
from sia_runner.records import Lever, ModelReply, Proposal, Trial
from sia_runner.wire.grants import Grant, ProviderDown
from tests.proposers.llm.scripted import ENTRY, PARENT, SETTINGS, SUBMIT, evidence, later, propose
from tests.provider import Answer, Malformed, ProviderServer, Request, Status

KEY = "test-key"


@dataclass
class Bench:
    """As the runner's own workbench: calls go through the models room; a trial counts how often a text occurs."""

    models: GatewayService
    grant: Grant

    def chat(self, messages: Sequence[Message], tools: Sequence[Message] = (), **settings: Any) -> ModelReply:
        return self.models.chat(self.grant, messages, tools, **settings)

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        return [Trial(min(1.0, files[ENTRY].count("good") / 4), 4, 0.1) for files in batch]

    def earlier_candidate(self, n: int) -> Any:
        raise AssertionError("nothing came before")

    def host(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the loop runs here, not in a guest")


@contextmanager
def bench(folder: Path, server: ProviderServer, api: str) -> Iterator[Bench]:
    provider = HostedProvider(
        name="custom",
        kind="hosted",
        api=api,  # pyright: ignore[reportArgumentType]
        litellm=api,
        model="scripted",
        base_url=server.base_url,
        key="SIA_TEST_KEY",
        attempts=3,
        max_wait_seconds=0.2,
    )
    models = GatewayService({"meta": provider}, folder / "ledger", BudgetConfig(), folder / "cache")
    try:
        yield Bench(models, Grant("meta", 2, "gen_2", "propose", folder / "proposer.jsonl"))
    finally:
        models.close()


def improving(request: Request) -> Answer:
    """A small model: reads, adds a line until a trial is good enough, then submits. Its state is the conversation."""
    said = [message["content"] for message in request.messages if message["role"] == "tool"]
    value = max((answer.partition("value ")[2][:5] for answer in said if "value " in answer), default="")
    if not said:
        return Answer(
            "First the evidence.",
            (("read_file", {"path": "evidence/overview.md"}), ("read_file", {"path": f"harness/{ENTRY}"})),
        )
    if value >= "0.750":
        return Answer("", (("submit", SUBMIT),))
    line = {"path": f"harness/{ENTRY}", "old": "RATE = 0.1", "new": "# good\nRATE = 0.1"}
    return Answer("One more.", (("edit_file", line), ("try_harness", {})))


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SIA_TEST_KEY", KEY)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def test_a_harness_is_improved_by_trials_and_proposed(tmp_path):
    with ProviderServer(improving) as server, bench(tmp_path, server, "openai") as workbench:
        proposal = propose(tmp_path, workbench, later(evidence(tmp_path)), trials=6)  # pyright: ignore
        assert proposal.files == {ENTRY: PARENT.replace("RATE", "# good\n" * 3 + "RATE", 1)}
        assert [trial["value"] for trial in proposal.notes["trials"]] == [0.25, 0.5, 0.75]
        assert (proposal.usage.calls, server.tally.calls) == (5, 5)
        assert proposal.usage.tokens == server.tally.input_tokens + server.tally.output_tokens
        assert {request.size < SETTINGS["context_kb"] * 1024 for request in server.requests} == {True}
        assert not server.errors


# litellm, which translates to Anthropic's API, takes its seconds to import
@pytest.mark.parametrize("api", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])
def test_what_a_model_gets_wrong_is_sent_back_in_a_conversation_that_the_provider_takes(tmp_path, api):
    script = [
        Answer("", (("run_bash", {"command": "ls"}), ("write_file", '{"path": "harness/x'), ("submit", {}))),
        Status(500),
        Answer("Let me think.", (), finish_reason="length"),
        Malformed(),
        Answer(""),
        Answer("", (("edit_file", {"path": f"harness/{ENTRY}", "old": "0.1", "new": "0.2"}), ("submit", SUBMIT))),
    ]
    with ProviderServer(lambda request: script[request.n]) as server, bench(tmp_path, server, api) as workbench:
        proposal = propose(tmp_path, workbench, later(evidence(tmp_path)))  # pyright: ignore
        assert proposal.files[ENTRY] == PARENT.replace("0.1", "0.2")
        text = server.requests[-1].text
        # over Anthropic's API arguments are objects: there the broken text arrives as one that does not fit
        for fault in ("no tool run_bash", "error: write_file: ", "title: Field required", "cut at its token limit"):
            assert fault in text
        assert not server.errors


def test_a_model_that_thinks_gets_its_thinking_back_also_where_old_messages_are_shortened(tmp_path):
    def strict(request: Request) -> Answer | Status:
        said = [message for message in request.messages if message["role"] == "assistant"]
        if any(message.get("tool_calls") and not message.get("reasoning_content") for message in said):
            return Status(400, message="The `reasoning_content` in the thinking mode must be passed back to the API.")
        return replace(improving(request), reasoning=f"So far {len(said)} answers. " + "Hm. " * 5000)

    with ProviderServer(strict) as server, bench(tmp_path, server, "openai") as workbench:
        proposal = propose(tmp_path, workbench, later(evidence(tmp_path)), trials=6)  # pyright: ignore
        assert proposal.files == {ENTRY: PARENT.replace("RATE", "# good\n" * 3 + "RATE", 1)}
        thoughts = [len(message.get("reasoning_content", "")) for message in server.requests[-1].body["messages"]]
        assert max(thoughts) > 10_000 and 0 < min(filter(None, thoughts)) < 100, thoughts


def test_a_proposal_that_was_cut_goes_on_without_paying_twice(tmp_path):
    class Killed(Exception):
        pass

    @dataclass
    class Recorded(Bench):
        """As Bench of the runner keeps what was said; cut before the call `cut`."""

        folder: Path
        cut: int | None = None
        asked: int = 0

        def __post_init__(self) -> None:
            self.dialogue = RecordedReplies(self.folder / "dialogue.jsonl")

        def chat(self, messages: Sequence[Message], tools: Sequence[Message] = (), **settings: Any) -> ModelReply:
            self.asked += 1
            if self.asked == self.cut:
                raise Killed
            request = {"messages": list(messages), "tools": list(tools), **settings}
            return self.dialogue.answer(request, lambda: self.models.chat(self.grant, messages, tools, **settings))

    folder = evidence(tmp_path)
    with ProviderServer(improving) as server, bench(tmp_path, server, "openai") as room:

        def run(name: str, cut: int | None = None) -> Proposal:
            recorded = Recorded(room.models, room.grant, tmp_path / name, cut)
            return propose(tmp_path, recorded, later(folder), trials=6)  # pyright: ignore

        whole, paid = run("whole"), server.tally.calls
        with pytest.raises(Killed):
            run("cut", cut=3)
        again = run("cut")
        assert replace(again, usage=whole.usage) == whole  # the server's ids, and so its tokens, count on
        assert again.usage.calls == whole.usage.calls == paid == 5
        assert server.tally.calls == 2 * paid


def test_a_dead_provider_ends_the_proposal_with_the_rooms_own_error(tmp_path):
    with ProviderServer(lambda request: Status(401)) as server, bench(tmp_path, server, "openai") as workbench:
        with pytest.raises(ProviderDown, match="401"):
            propose(tmp_path, workbench, later(evidence(tmp_path)))  # pyright: ignore


def test_nothing_from_outside_the_two_folders_and_no_key_is_ever_sent(tmp_path):
    secrets = {"val.json": "GOLD-OF-VAL", "gen_1/scores.json": "SCORES-OF-VAL", "task/verifier.py": "SOURCE-OF-ALL"}
    for name, text in secrets.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    folder = evidence(tmp_path)
    (folder / "out.txt").symlink_to(tmp_path / "val.json")
    (folder / "up").symlink_to(tmp_path)

    def prying(request: Request) -> Answer:
        prefixes = ("", "evidence/", "evidence/../", "evidence/up/", "harness/../", f"{tmp_path}/", "../", "./")
        names = [*secrets, "out.txt"]
        wanted = [f"{prefix}{name}" for prefix in prefixes for name in names][request.n * 14 :][:14]
        reads = tuple(("read_file", {"path": path}) for path in wanted)
        return Answer("", (*reads, ("search", {"pattern": "[A-Z]-OF-", "regex": True}), ("list_files", {})))

    with ProviderServer(prying) as server, bench(tmp_path, server, "openai") as workbench:
        proposal = propose(tmp_path, workbench, later(folder), turns=4)  # pyright: ignore
        sent = "".join(json.dumps(request.body) for request in server.requests)
    assert (proposal.lever, proposal.files) == (Lever.HARNESS, {})
    assert "no match" in sent
    assert not [secret for secret in (*secrets.values(), KEY) if secret in sent]
