"""The command `direct` leaves a person's note for the next proposal of a run."""

from argparse import Namespace

from sia_runner.config.experiment import RecipesConfig, ReplayConfig
from sia_runner.experiment.runner import existing_run, stored_config
from sia_runner.store.directions import leave_direction
from sia_runner.store.journal import JournalReader
from sia_runner.store.lease import lease_is_held
from sia_runner.store.run_directory import RunDirectoryError


def main(options: Namespace) -> int:
    """Leave the note and say when it is read; return the exit code."""
    run = existing_run(options.run)
    config = stored_config(run)
    if config.control:
        raise RunDirectoryError(f"{run.path} is a control arm: its proposals follow no feedback, a person's neither")
    proposer = config.meta_agent
    if isinstance(proposer, RecipesConfig | ReplayConfig):
        readers = "llm, claude_code, openhands, pydantic_ai, or a class of your own that reads Brief.directions"
        raise RunDirectoryError(f"{run.path}: meta_agent={proposer.name} reads no notes; those who do: {readers}")
    leave_direction(run, options.note)
    when = "the next proposal is told it"
    if not lease_is_held(run.path):
        ended = run.journal.is_file() and (JournalReader(run.journal).entries or [{}])[-1].get("event") == "ended"
        more = " max_gen=N with more generations" if ended else ""
        when += f", after: python -m sia_runner resume {run.path}{more}"
    print(f"left in {run.directions}: {when}")
    print("a run with a person's note is no fair arm: report, compare and tables say so once a proposal was told it")
    return 0
