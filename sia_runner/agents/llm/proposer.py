"""The language-model proposer: prepares the workspace and the prompts, runs the loop, and returns a proposal."""

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
    """The meta-agent in generation 1 and feedback agent afterwards.

    Deterministic for (brief, the model's replies, trials).
    """

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
        """Run the loop on the parent's harness and return its proposal."""
        desk = self._desk(brief, workbench)
        tools = offered(first=desk.first, trials=desk.trials, weights=desk.weights is not None)
        prompts = prompting.Told(self._context, brief, desk, self._turns, self._limit)
        schemas = [tool.schema() for tool in tools.values()]
        conversation = Conversation(prompts.system(), prompts.task(), schemas, self._limit)
        result = run(conversation, desk, tools, self._settings, self._turns, self._repairs)
        return outcome.proposal(brief, desk, result)

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
            answer_bytes=min(_ROOM, self._limit // 6),
            first=brief.n == 1,
            earlier={
                str(past.notes["digest"]): f"generation {past.n}, {past.status} ({past.reason[:200]})"
                for past in brief.history
                if past.notes.get("digest") and past.status != "unscored"
            },
            weights=brief.weights,
            start_value=_tried_before(brief, digest(draft.files), self._questions),
        )


def _tried_before(brief: Brief, harness_digest: str, questions: int) -> float | None:
    """Return the value of an earlier trial of the same harness, or None.

    Trials of one size ask the same questions in every generation, so an earlier one is a fair comparison, unless the
    harness's model had other weights then.
    """
    trained = [past.n for past in brief.history if past.lever is not Lever.HARNESS and past.status == "accepted"]
    since = max(trained, default=0)
    trials = [trial for past in brief.history if past.n > since for trial in past.notes.get("trials", [])]
    values = [
        trial["value"]
        for trial in trials
        if trial.get("digest") == harness_digest and trial.get("n") == questions and not trial.get("failure")
    ]
    return values[-1] if values else None
