"""The real agents in a real sandbox, before a scripted model: what they can do, what they cannot, how they end.

Each works once, and several tests look at what came of it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from sia_runner.proposers.guests import ClaudeCode, GuestProposer, OpenHands, PydanticAI
from sia_runner.proposers.protocol import Files, ProposerError
from sia_runner.records import Lever, PastGeneration, Proposal
from sia_runner.sandbox.protocol import SandboxResult
from tests.proposers.guests.conftest import GOLD, KINDS, OLD, third, toy
from tests.proposers.guests.hosting import KEY, hosting
from tests.provider import Answer, ProviderServer, Request, Status

Step = tuple[str, dict[str, Any] | str]
NEW = OLD.replace("old", "new")
LAST_WORDS = "# Say new\n\nThe old word failed on question 7."


@dataclass(frozen=True)
class Hands:
    """How a scripted model moves one agent's tools. `h` is the harness's folder inside, `e` the evidence's."""

    api: Literal["openai", "anthropic"]
    nonsense: list[Step]  # what models write on bad days
    read: Callable[[str], Step]
    edit: Callable[[str], Step]
    shell: Callable[[str], Step]


HANDS: dict[type[GuestProposer], Hands] = {
    ClaudeCode: Hands(
        "anthropic",
        [("NoSuchTool", {"x": 1}), ("Edit", {"file_path": 5}), ("Read", {"file_path": "/etc/shadow"})],
        lambda path: ("Read", {"file_path": path}),
        lambda path: ("Edit", {"file_path": path, "old_string": "old", "new_string": "new"}),
        lambda command: ("Bash", {"command": command}),
    ),
    PydanticAI: Hands(
        "openai",
        [("no_such_tool", {"x": 1}), ("edit_file", "{not json"), ("read_file", {"path": "/etc/shadow"})],
        lambda path: ("read_file", {"path": path}),
        lambda path: ("edit_file", {"path": path, "old": "old", "new": "new"}),
        lambda command: ("run", {"command": command}),
    ),
    OpenHands: Hands(
        "openai",
        [
            ("no_such_tool", {"x": 1}),
            ("file_editor", "{not json"),
            ("file_editor", {"command": "view", "path": "/etc/x"}),
        ],
        lambda path: ("file_editor", {"command": "view", "path": path}),
        lambda path: ("file_editor", {"command": "str_replace", "path": path, "old_str": "old", "new_str": "new"}),
        lambda command: ("terminal", {"command": command}),
    ),
}


@dataclass(frozen=True)
class Worked:
    proposal: Proposal
    server: ProviderServer
    ended: SandboxResult
    tried: list[Files]

    @property
    def told(self) -> str:
        """All that the agent had told the model in the end, the answers of its tools included."""
        return self.server.requests[-1].text


def work(
    kind: type[GuestProposer], tmp_path_factory: pytest.TempPathFactory, script: Callable[..., Any], turns: int = 20
) -> Worked:
    folder = tmp_path_factory.mktemp(kind.name)
    try:
        guest = kind(toy(folder / "task"), turns=turns, seconds=200.0, trials=2, trial_questions=4)
    except ProposerError as error:
        pytest.skip(f"NOT TESTED: {error}")
    with ProviderServer(script, keys=(KEY,)) as server, hosting(server, HANDS[kind].api) as host:
        history = [PastGeneration(n, Lever.HARNESS, f"change {n}", "accepted", "gain", None) for n in (1, 2)]
        proposal = guest.propose(replace(third(folder / "evidence"), history=history), host)
        assert host.ended
        return Worked(proposal, server, host.ended, host.tried)


def following(steps: Callable[[str, str], list[Step]]) -> Callable[[Request], Answer]:
    """A model that takes the steps one by one, then says its last words."""

    def script(request: Request) -> Answer:
        said = re.search(r"`(/\S+/harness)` is the harness", request.text)
        shown = re.search(r"`(/\S+)` is read-only", request.text)
        assert said and shown
        plan = steps(said[1], shown[1])
        done = sum(message["role"] == "assistant" for message in request.messages)
        return Answer("Next.", tool_calls=(plan[done],)) if done < len(plan) else Answer(LAST_WORDS)

    return script


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def worked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worked]:
    """An agent that met nonsense, read the evidence, looked for ways out, and changed its harness."""
    kind: type[GuestProposer] = request.param
    hands = HANDS[kind]
    hidden = tmp_path_factory.mktemp("hidden") / "answers.csv"
    hidden.write_text(GOLD)

    def steps(harness: str, evidence: str) -> list[Step]:
        connect = f"import socket; socket.create_connection(('127.0.0.1', {ports[0]}), 2)"
        probes = [
            f"python {harness}/target_agent.py | sed s/^/it-says-/",
            f"touch {evidence}/mine {harness}/../../mine 2>&1 | sed s/^/refused-/",
            f"cat {hidden}",
            f'python -c "{connect}" 2>&1 | tail -1 | sed s/^/outward-/',
            *(f"python {ask_host(told[-1])} {what}" for what in ("try", "try", "candidate 2", "candidate 7")),
            "cat candidates/gen_2/harness/target_agent.py candidates/gen_2/failures.jsonl",
            "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | sed s/^/env-/",
        ]
        return [
            *hands.nonsense,
            hands.read(f"{evidence}/overview.md"),
            hands.read(f"{harness}/target_agent.py"),
            hands.edit(f"{harness}/target_agent.py"),
            hands.shell("; ".join(probes)),
        ]

    ports: list[int] = []
    told: list[str] = []

    def script(asked: Request) -> Answer:
        told.append(asked.text)
        ports.append(int(asked.headers["host"].rpartition(":")[2]))
        return following(steps)(asked)

    yield work(kind, tmp_path_factory, script)


def test_it_changes_its_harness_and_says_why(worked):
    made = worked.proposal
    assert made.lever is Lever.HARNESS
    assert made.files == {"target_agent.py": NEW}
    assert (made.title, made.rationale) == ("Say new", "The old word failed on question 7.")
    assert "it-says-new" in worked.told


def ask_host(text: str) -> str:
    """Where the program lies by which the agent asks its host."""
    (path,) = {*re.findall(r"`python (/\S+/ask_host\.py) try`", text)}
    return path


def test_it_tries_its_draft_on_dev_questions_and_the_same_files_once(worked):
    assert worked.tried == [{"target_agent.py": NEW}]
    assert "value 0.250" in worked.told and "tried-gold" in worked.told
    assert "These very files were tried before" in worked.told and "[trials left: 1]" in worked.told
    assert [(trial["value"], trial["n"]) for trial in worked.proposal.notes["trials"]] == [(0.25, 4)]


def test_it_reads_the_code_and_failures_of_an_earlier_candidate(worked):
    assert "candidate-2" in worked.told and "g-of-dev" in worked.told
    assert "no earlier generation 7; there are: 1, 2" in worked.told


def test_it_reads_the_evidence(worked):
    assert "Question 7 failed." in worked.told


def test_its_usage_in_the_ledger_is_what_the_provider_counted(worked):
    tally = worked.server.tally
    assert worked.proposal.usage.calls == tally.calls == tally.answered
    assert worked.proposal.usage.tokens == tally.input_tokens + tally.output_tokens


def test_it_cannot_write_outside_its_workspace_nor_read_what_it_was_not_shown(worked):
    assert worked.told.count("refused-touch: cannot touch") == 2
    assert GOLD not in worked.told


def test_no_way_leads_out_but_the_gateway(worked):
    assert "outward-ConnectionRefusedError" in worked.told


def test_the_providers_key_is_nowhere_inside(worked):
    assert "env-SIA_MODEL=scripted" in worked.told
    assert KEY not in worked.told


def test_the_sandboxs_ordinary_limits_are_enough_for_it(worked):
    assert worked.ended.exit_code == 0
    assert worked.ended.peak_mb < 1024


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_guest_that_never_ends_makes_as_many_calls_as_it_has_turns_and_no_more(kind, tmp_path_factory):
    hands = HANDS[kind]

    def steps(harness: str, evidence: str) -> list[Step]:
        return [hands.read(f"{harness}/target_agent.py"), hands.edit(f"{harness}/target_agent.py")] + [
            hands.shell(f"echo {n}") for n in range(50)
        ]

    worked = work(kind, tmp_path_factory, following(steps), turns=4)
    assert worked.server.tally.calls == 4
    assert worked.proposal.files == {"target_agent.py": NEW}
    assert f"{kind.name} was cut short" in worked.proposal.rationale


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_model_that_refuses_makes_a_proposal_without_files_that_says_so(kind, tmp_path_factory):
    worked = work(kind, tmp_path_factory, lambda request: Status(400, message="this model takes no such prompt"))
    assert worked.proposal.files == {}
    assert "changed nothing" in worked.proposal.rationale
    assert "this model takes no such prompt" in worked.proposal.rationale


def test_the_gateway_refuses_a_driver_that_would_call_more_than_its_turns(tmp_path):
    program = (
        "import json, os, urllib.request\n"
        "body = json.dumps({'model': 'm', 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()\n"
        "head = {'authorization': 'Bearer ' + os.environ['OPENAI_API_KEY'], 'content-type': 'application/json'}\n"
        "url = os.environ['OPENAI_BASE_URL'] + '/chat/completions'\n"
        "for n in range(5):\n"
        "    try: urllib.request.urlopen(urllib.request.Request(url, body, head)).read()\n"
        "    except urllib.error.HTTPError as error: print('refused', error.code)\n"
    )
    with ProviderServer(lambda request: Answer("hi"), keys=(KEY,)) as server, hosting(server, "openai") as host:
        hosted = host.host({"main.py": program}, "main.py", inputs=tmp_path, harness={"a.py": ""}, calls=2, seconds=20)
    assert server.tally.calls == hosted.usage.calls == 2
    assert hosted.output.count("refused") == 3


@pytest.mark.slow
def test_claude_code_works_with_a_provider_that_speaks_openais_interface(tmp_path_factory, monkeypatch):
    monkeypatch.setitem(HANDS, ClaudeCode, Hands(**{**HANDS[ClaudeCode].__dict__, "api": "openai"}))
    hands = HANDS[ClaudeCode]
    script = following(lambda h, e: [hands.read(f"{h}/target_agent.py"), hands.edit(f"{h}/target_agent.py")])
    worked = work(ClaudeCode, tmp_path_factory, script)
    assert worked.proposal.files == {"target_agent.py": NEW}
    assert {request.api for request in worked.server.requests} == {"openai"}
    assert worked.proposal.usage.calls == worked.server.tally.calls
