"""The proposer: builds the desk and the prompts, runs the loop, and makes a proposal of whatever came of it."""

from typing import Any

from sia_runner.agents.folder import read_text_files
from sia_runner.agents.llm import outcome, prompting
from sia_runner.agents.llm.conversation import Conversation
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Draft, digest
from sia_runner.agents.llm.loop import run
from sia_runner.agents.llm.shelf import read_tree
from sia_runner.agents.llm.tools import offered
from sia_runner.agents.protocol import Brief, Context, Workbench
from sia_runner.records import Lever, Proposal

_ROOM = 24 * 1024  # bytes of one tool's answer, where the context is large


class Llm:
    """Meta-agent in generation 1, feedback agent afterwards. Deterministic for (brief, the model's replies, trials)."""

    pulls_weights = True

    def __init__(
        self,
        context: Context,
        *,
        turns: int,
        context_kb: int,
        trials: int,
        questions: int,
        repairs: int,
        temperature: float | None,
        max_tokens: int,
    ) -> None:
        self._context = context
        self._turns, self._limit, self._repairs = turns, context_kb * 1024, repairs
        self._trials, self._questions = trials, questions
        self._settings: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            self._settings["temperature"] = temperature

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        desk = self._desk(brief, workbench)
        tools = offered(first=desk.first, trials=desk.trials, weights=desk.weights is not None)
        told = prompting.Told(self._context, brief, desk, self._turns, self._limit)
        schemas = [tool.schema() for tool in tools.values()]
        conversation = Conversation(told.system(), told.task(), schemas, self._limit)
        ended = run(conversation, desk, tools, self._settings, self._turns, self._repairs)
        return outcome.proposal(brief, desk, ended)

    def _desk(self, brief: Brief, workbench: Workbench) -> Desk:
        evidence = read_tree(brief.evidence) if brief.evidence else {"task.md": self._context.description}
        parent = read_tree(brief.evidence / "harness") if brief.evidence else {}
        start = parent or read_text_files(self._context.reference, self._context.entry)
        draft = Draft(start, self._context.entry)
        return Desk(
            evidence=evidence,
            draft=draft,
            workbench=workbench,
            trials=self._trials,
            questions=self._questions,
            room=min(_ROOM, self._limit // 6),
            first=brief.n == 1,
            earlier={
                str(past.notes["digest"]): f"generation {past.n}, {past.status} ({past.reason[:200]})"
                for past in brief.history
                if past.notes.get("digest") and past.status != "unscored"
            },
            weights=brief.weights,
            start_value=_tried_before(brief, digest(draft.files), self._questions),
        )


def _tried_before(brief: Brief, mark: str, questions: int) -> float | None:
    """Trials of one size ask the same questions in every generation, so an earlier one is a fair comparison, unless
    the harness's model was another then."""
    trained = [past.n for past in brief.history if past.lever is not Lever.HARNESS and past.status == "accepted"]
    since = max(trained, default=0)
    trials = [trial for past in brief.history if past.n > since for trial in past.notes.get("trials", [])]
    values = [
        trial["value"]
        for trial in trials
        if trial.get("digest") == mark and trial.get("n") == questions and not trial.get("failure")
    ]
    return values[-1] if values else None
