"""The run directory: names of its files, atomic writes, hashes. See "Run directory" in docs/architecture.md."""

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.errors import RunnerError
from sia_runner.records import Outcome, Proposal


class RunDirectoryError(RunnerError):
    """The run directory cannot be used; the message is one line for the user (exit code 2)."""


def write_bytes(path: Path, data: bytes, durable: bool = True, *, private: bool = False) -> None:
    """Write atomically: a reader sees the old file or the new one, also after a power cut if `durable`.

    `private`: nobody but this user may read it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with temporary.open("wb") as stream:
        if private:
            os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
        if durable:  # which a file that is made again from others need not be
            stream.flush()
            os.fsync(stream.fileno())
    temporary.replace(path)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write text atomically, in UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), durable)


def write_json(path: Path, data: Any, durable: bool = True) -> None:
    """Write JSON atomically; raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n", durable)


def read_json(path: Path) -> Any:
    """Return the JSON content of a file of our own; for untrusted files use the bounded readers."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_outcomes(path: Path) -> list[Outcome]:
    """Return the outcomes of a scores.json."""
    return [Outcome.from_json(row) for row in read_json(path)["outcomes"]]


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write a scores.json."""
    write_json(path, {"outcomes": [outcome.to_json() for outcome in outcomes]})


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_sha256(folder: Path) -> str:
    """Return one hash over names and contents of all files below `folder`; links are hashed, never followed."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            digest.update(f"link {name} {path.readlink()}\n".encode(errors="surrogateescape"))
        elif path.is_file():
            digest.update(f"file {name} {sha256_of(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def remove_tree(folder: Path) -> None:
    """Delete a folder that a hostile program filled: any depth, any mode; links are not followed."""
    if not os.path.lexists(folder):
        return
    command = ["rm", "-rf", "--one-file-system", "--", str(folder)]
    if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(command, check=True)


class _Part:
    """A file or folder of a directory, as an attribute with a docstring; its value is the path."""

    def __init__(self, name: str, doc: str) -> None:
        self._name, self.__doc__ = name, doc

    def __get__(self, directory: Any, _: type) -> Path:
        return directory.path / self._name


@dataclass(frozen=True, slots=True)
class HarnessRunDir:
    """The folder of one harness run: the view it reads, the folder it writes, the copied submission."""

    path: Path

    view = _Part("view", "The view of the split, which the harness reads.")
    work = _Part("work", "The working folder, which the harness writes.")
    submission = _Part("submission", "The submission, copied out of the working folder.")
    keys = _Part("keys.json", "The map from the id in the view to the unit; never mounted.")
    log = _Part("stdout.log", "The captured stdout and stderr of the harness.")
    trajectories = _Part("trajectories.jsonl", "Every model call, one JSON object a line; no file if there was none.")
    faults = _Part("faults.json", "The failed model calls by question; exists if the harness could call a model.")

    def clear(self) -> None:
        """Delete the files of an earlier attempt and make the folder."""
        for part in (self.view, self.work, self.submission, self.keys, self.log, self.trajectories, self.faults):
            remove_tree(part)
        self.path.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class GenerationDir:
    """The folder of one generation."""

    path: Path
    n: int

    harness = _Part("harness", "The files of the harness.")
    adapter = _Part("adapter", "The adapter, or a link to the inherited one; does not exist for the base alone.")
    training = _Part("training", "The checkpoints of an unfinished weights update.")
    # A step that a resume repeated occurs twice, and a kill may have cut a line: the first complete line of it counts.
    curve = _Part("curve.jsonl", "The training curve, a JSON object a line for each step, written while it runs.")
    evidence = _Part("evidence", "The evidence that the proposer reads.")
    proposal = _Part("proposal.json", "The proposal, as JSON.")
    decision = _Part("decision.json", "The choice of lever, parent and algorithm, as JSON.")
    plan = _Part("plan.md", "The plan that a person has to approve; plan.json beside it is for programs.")
    rollouts = _Part("rollouts", "The scratch folder of harness runs during training; nothing in it is kept.")
    processes = _Part("processes", "The messages of processes that train together; kept if the training failed.")
    scores = _Part("scores.json", "The outcomes and scores, as JSON.")

    @property
    def resolved_adapter(self) -> Path | None:
        """The resolved folder of the adapter; None for the base alone."""
        return self.adapter.resolve() if self.adapter.exists() else None

    def sibling(self, index: int) -> Path:
        """Return the folder of one parallel proposal; the chosen one is copied to the generation's folder."""
        return self.path / "proposals" / str(index)

    def read_proposal(self) -> Proposal:
        """Return the proposal. An earlier version wrote parent and evidence to decision.json only."""
        data = read_json(self.proposal)
        if "parent" not in data:
            evidence = read_json(self.decision)["evidence"]
            data |= {"parent": evidence["parent"], "evidence": evidence}
        return Proposal.from_json(data)

    @property
    def gate(self) -> HarnessRunDir:
        """The harness run of the gate."""
        return HarnessRunDir(self.path / "gate")

    def harness_runs(self, rounds: int) -> list[HarnessRunDir]:
        """Return the harness runs: one in the generation's own folder, or a folder per fold if cross-fitted."""
        folders = [self.path] if rounds == 1 else [self.path / f"fold_{k}" for k in range(rounds)]
        return [HarnessRunDir(folder) for folder in folders]


@dataclass(frozen=True, slots=True)
class RunDir:
    """A run directory: the paths of its files."""

    path: Path

    config = _Part("config.yaml", "The composed configuration.")
    lock = _Part("lock.json", "The versions, hashes and machine of the run.")
    journal = _Part("journal.jsonl", "The journal.")
    summary = _Part("summary.json", "The result of the run.")
    context = _Part("context.md", "The history of the run in words, for the proposer and for people.")
    ledger = _Part("ledger", "The spending on models: a file per process, a line before and after each attempt.")
    tracking = _Part("tracking", "A tracker's files: the run's id at its service, and data that could not be sent yet.")
    trials = _Part("trials", "The proposers' trials on dev questions, by content; shared by all generations.")
    directions = _Part("directions", "Notes of a person that no proposal was told yet, a file each.")
    transfers = _Part("transfers", "Tests of the final harness with other models or tasks, a run directory each.")
    probes = _Part("probes", "The rewards of harnesses before any training, by content; shared by all generations.")

    def job(self, step: str) -> Path:
        """Return the folder of the jobs of one journal step: scripts, logs, the outcome."""
        return self.path / "jobs" / step

    def generation(self, n: int) -> GenerationDir:
        """Return the folder of generation `n`."""
        return GenerationDir(self.path / f"gen_{n}", n)

    def adapter_of(self, n: int | None) -> Path | None:
        """Return the adapter that candidate `n` runs on; None for the base alone."""
        return None if n is None else self.generation(n).resolved_adapter

    def test(self, n: int) -> HarnessRunDir:
        """Return the harness run of generation `n` on the test split."""
        return HarnessRunDir(self.path / "test" / f"gen_{n}")

    @property
    def has_incumbent(self) -> bool:
        """True if a candidate was accepted."""
        return (self.path / "best").is_symlink()

    def link_best(self, n: int) -> None:
        """Let the link `best` point to gen_<n>, atomically."""
        temporary = self.path / ".best.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"gen_{n}")
        temporary.replace(self.path / "best")
