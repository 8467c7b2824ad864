"""Runs with a scripted provider in a process of its own."""

import pytest

from tests.scripts import riddles
from tests.scripts.llm_run import LlmRun
from tests.scripts.serving import KEY


@pytest.fixture
def llm_run(tmp_path, monkeypatch):
    """`llm_run(task=[...], delay=seconds)`; the riddles of the tests when no task is named."""
    monkeypatch.setenv(*next(iter(KEY.items())))
    started: list[LlmRun] = []

    def make(task: list[str] | None = None, delay: float = 0.0) -> LlmRun:
        run = LlmRun(tmp_path, task or riddles.make(tmp_path), delay)
        started.append(run)
        run.serve()
        return run

    yield make
    for run in started:
        run.end()
