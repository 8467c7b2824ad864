"""One run with a language model: its overrides, and the scripted provider in a process of its own."""

import os
from pathlib import Path

from tests.provider import Tally
from tests.scripts.data import Row, rows, write_gold
from tests.scripts.serving import Served

# 64 threads of a harness, and what else runs beside them, are more processes than a sandbox allows by default
LLM = ["meta_agent=llm", "meta_agent.trial_questions=6", "provider.concurrency=64"]


class LlmRun:
    """Everything of one run: its overrides, the provider's process, and what the test knows of the task."""

    def __init__(self, folder: Path, task: list[str], delay: float) -> None:
        self.task = task
        self.known: list[Row] = rows(task)
        self.seen = folder / "seen.jsonl"
        gold = write_gold(folder / "gold.json", self.known)
        self._env = {"SIA_TEST_GOLD": str(gold), "SIA_TEST_SEEN": str(self.seen), "SIA_TEST_DELAY": str(delay)}
        self.server: Served | None = None

    def serve(self, *, again: bool = False, **env: str) -> Served:
        """A new process; `again`: at the address of the last one, which has died or is ended now."""
        port = self.server.port if self.server and again else 0
        self.end()
        self.server = Served("improving:reply", {**os.environ, **self._env, **env}, port)
        return self.server

    def end(self) -> None:
        if self.server:
            self.server.end()

    def overrides(self, run: Path, *more: str) -> list[str]:
        return [*self.task, *LLM, *self._server.overrides, f"hydra.run.dir={run}", *more]

    @property
    def tally(self) -> Tally:
        """As the provider's process counted."""
        return self._server.tally

    @property
    def _server(self) -> Served:
        assert self.server, "not serving"
        return self.server

    @property
    def told(self) -> str:
        """All that was ever sent to the proposer."""
        return self.seen.read_text(encoding="utf-8")
