"""Runs another package's agent as a guest: in the sandbox, with the gateway as its only network."""

from pathlib import Path

from sia_runner.agents.protocol import Files, Hosted, ProposerError
from sia_runner.candidate.execute import describe, stop_for
from sia_runner.candidate.harness import MAX_BYTES, MAX_FILES, FaultyHarness, write_harness
from sia_runner.config import Experiment
from sia_runner.models.protocol import BudgetSpent, Grant
from sia_runner.rooms import limits, models, rooms
from sia_runner.rundir import RunDir, Site
from sia_runner.sandbox.protocol import Job
from sia_runner.tasks.collect import Quota, collect_tree, refusal

_OUTPUT = 16 * 1024  # bytes kept of what it printed


def host(
    config: Experiment,
    run: RunDir,
    grant: Grant,
    folder: Path,
    program: Files,
    entry: str,
    inputs: Path,
    harness: Files,
    seconds: float,
) -> Hosted:
    """Run `program` in a cleared `folder`; see Workbench.host. The guest's files are copied out within limits."""
    gateway = models(config, run)
    if gateway is None:
        raise ProposerError(f"meta_agent={config.meta_agent.name} calls a model; give it a key `provider`")
    site = Site(folder)
    site.clear()
    guest = site.path / "program"
    try:
        write_harness(program, guest, entry)
        site.work.mkdir()
        _place(harness, site.work / "harness")
    except FaultyHarness as refused:
        raise ProposerError(f"meta_agent={config.meta_agent.name}: {refused}") from refused
    with gateway.admit(grant) as session:
        ending = rooms(config).sandbox.run(
            Job(
                harness=guest,
                entry=entry,
                data=inputs,
                work=site.work,
                log=site.log,
                limits=limits(config, seconds),
                door=session.door,
            )
        )
    stop_for(ending)
    trouble = session.trouble()
    if trouble and not (isinstance(trouble, BudgetSpent) and trouble.scope == "grant"):
        raise trouble
    harness_folder = site.work / "harness"
    if harness_folder.is_dir() and not harness_folder.is_symlink():  # the guest has exited, so it cannot be swapped
        collect_tree(harness_folder, site.submission, Quota(MAX_FILES, MAX_BYTES), leave=frozenset())
    output = site.log.read_bytes()[-_OUTPUT:].decode("utf-8", "replace") if site.log.is_file() else ""
    refused = refusal(site.submission)
    if refused:
        return Hosted({}, f"what the guest left in harness/ cannot be taken: {refused}", output, session.usage())
    return Hosted(_texts(site.submission), describe(ending, site.log), output, session.usage())


def _place(files: Files, folder: Path) -> None:
    """Write the guest's starting files; the entry program may be missing, then the guest has to write it."""
    folder.mkdir()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _texts(folder: Path) -> dict[str, str]:
    """Return the text files of a folder: a harness is text, so other files cannot be proposed."""
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            try:
                texts[path.relative_to(folder).as_posix()] = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue
    return texts
