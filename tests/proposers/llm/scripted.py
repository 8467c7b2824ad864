"""A workbench whose model says what a test wrote down, and keeps everything that it was sent."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.proposers.llm import Llm
from sia_runner.proposers.protocol import (
    Brief,
    EarlierCandidate,
    Files,
    GuestResult,
    MeasuredRewards,
    Message,
    ProposerContext,
    WeightsLever,
)
from sia_runner.records import ModelReply, Proposal, ToolCall, Trial, Usage

ENTRY = "target_agent.py"
REFERENCE = "import sys\n\nprint('reference')\n"
PARENT = "import sys\n\nRATE = 0.1\nprint('parent')\n"
SETTINGS: dict[str, Any] = {
    "turns": 12,
    "context_kb": 64,
    "trials": 2,
    "trial_questions": 4,
    "repairs": 2,
    "temperature": None,
    "max_tokens": 1000,
}
WEIGHTS = WeightsLever(
    {"grpo": "the verifier is terminal", "best_of_n": "nearly every reward is zero"}, due_reason="plateau 1 >= 1"
)
REWARDS = MeasuredRewards(
    {"n": 64, "groups": 16, "mean": 0.41, "zero_share": 0.59},
    suggested="grpo",
    why="the verifier is terminal (seconds 1 <= 60): grpo",
    refused={"best_of_n": "an update is estimated to take 90 minutes, and 20 are left"},
    minutes={"grpo": 3.5, "best_of_n": 90.0},
)
SUBMIT = {"title": "a better rate", "rationale": "it was too low", "expected_effect": "more right answers"}


def said(text: str = "", *calls: tuple[str, Any], finish: str = "") -> ModelReply:
    """One answer of a model; arguments are a dict, or the text that a model wrote in place of one."""
    made = tuple(
        ToolCall(f"call_{place}", name, given if isinstance(given, str) else json.dumps(given))
        for place, (name, given) in enumerate(calls)
    )
    wire = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in made
    ]
    message: dict[str, Any] = {"role": "assistant", "content": text or None} | ({"tool_calls": wire} if wire else {})
    return ModelReply(text, made, finish or ("tool_calls" if made else "stop"), message, Usage(0.001, 100, 1))


@dataclass
class Bench:
    replies: Sequence[ModelReply | Exception]
    trial: Callable[[Files], Trial] = lambda files: Trial(0.5, 4, 1.0)
    rewards: MeasuredRewards = REWARDS
    measured: list[Files] = field(default_factory=list)
    sent: list[list[Message]] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    tried: list[Files] = field(default_factory=list)

    def chat(self, messages: Sequence[Message], tools: Sequence[Message] = (), **settings: Any) -> ModelReply:
        json.dumps(messages, allow_nan=False).encode()  # what a provider is sent is JSON
        check_pairs(messages)
        self.sent.append(list(messages))
        self.tools, self.settings = [tool["function"]["name"] for tool in tools], settings
        reply = self.replies[min(len(self.sent), len(self.replies)) - 1]  # the last one again and again
        if isinstance(reply, Exception):
            raise reply
        return reply

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        assert share == 1.0
        assert questions == SETTINGS["trial_questions"]
        self.tried += [dict(files) for files in batch]
        return [self.trial(files) for files in batch]

    def measure(self, files: Files) -> MeasuredRewards:
        self.measured.append(dict(files))
        return self.rewards

    def earlier_candidate(self, n: int) -> EarlierCandidate:
        return EarlierCandidate({ENTRY: f"print({n})"}, [{"question": "2 + 2", "prediction": "5", "gold": "4"}])

    def host(self, *_: Any, **__: Any) -> GuestResult:
        raise AssertionError("the loop runs here, not in a guest")

    def answers(self) -> list[str]:
        """What the tools answered, as the last request showed it."""
        return [str(message["content"]) for message in self.sent[-1] if message["role"] == "tool"]


def check_pairs(messages: Sequence[Mapping[str, Any]]) -> None:
    """As providers demand: each call is answered once, right after it, and nothing else is."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting, f"no result for {waiting}"
        waiting = [call["id"] for call in message.get("tool_calls", [])]
        assert len(set(waiting)) == len(waiting), f"the same id twice: {waiting}"
        for call in message.get("tool_calls", []):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert not waiting, f"no result for {waiting}"


def context(folder: Path, **given: Any) -> ProposerContext:
    (folder / "reference").mkdir(exist_ok=True)
    (folder / "reference" / ENTRY).write_text(REFERENCE)
    facts: dict[str, Any] = {
        "description": "# Toy\n\nAnswer each question.\n",
        "submission": "submission.csv",
        "limits_seconds": 60.0,
        "calls_model": True,
    }
    return ProposerContext("toy", folder, folder / "reference", ENTRY, seed=0, **(facts | given))


def evidence(folder: Path, files: Mapping[str, str] | None = None) -> Path:
    """gen_<n>/evidence with a parent's harness."""
    given = {"task.md": "# Toy\n", "overview.md": "Dev 3 of 10 right.\n", f"harness/{ENTRY}": PARENT} | dict(
        files or {}
    )
    for name, text in given.items():
        path = folder / "evidence" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")
    return folder / "evidence"


def first(**given: Any) -> Brief:
    facts = {"n": 1, "max_gen": 5, "evidence": None, "history": (), "incumbent": None, "higher_is_better": True}
    return Brief(**(facts | given))


def later(folder: Path | None, **given: Any) -> Brief:
    facts = {"n": 2, "max_gen": 5, "evidence": folder, "history": (), "incumbent": 1, "higher_is_better": True}
    return Brief(**(facts | {"parent": 1} | given))


def propose(folder: Path, bench: Bench, brief: Brief, **settings: Any) -> Proposal:
    return Llm(context(folder), **(SETTINGS | settings)).propose(brief, bench)
