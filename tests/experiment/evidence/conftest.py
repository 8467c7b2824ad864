"""Finished runs to look into, made once by the real command line."""

from pathlib import Path

import pytest

from sia_runner.experiment.context import RunContext
from sia_runner.experiment.runner import stored_config
from sia_runner.records import PastGeneration
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations
from sia_runner.store.run_directory import RunDir
from tests.conftest import Cli


class Finished:
    """A run, and what `write_evidence` needs of it."""

    def __init__(self, path: Path) -> None:
        self.run = RunDir(path)
        self.context = RunContext(stored_config(self.run), self.run)
        self.history: tuple[PastGeneration, ...] = tuple(
            g.to_past_generation() for g in finished_generations(JournalReader(self.run.journal))
        )
        self.incumbent = find_incumbent(finished_generations(JournalReader(self.run.journal)))


def complete(cli: Cli, overrides: list[str], *harnesses: str | dict[str, str]) -> Finished:
    done = cli(*overrides, *cli.replay(*harnesses), f"hydra.run.dir={cli.run}")
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(cli.run)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    def make(overrides, *harnesses):
        return complete(Cli(tmp_path_factory.mktemp("evidence")), overrides, *harnesses)

    return make
