"""The run directory: names of its files, atomic writes, hashes. See "Run directory" in docs/architecture.md."""

import hashlib
import json
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.errors import RunnerError


class RunDirectoryError(RunnerError):
    """The run directory cannot be used; the message is one line for the user (exit code 2)."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write atomically: a reader sees the old file or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, in UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON content of a file of our own; for untrusted files use the bounded readers."""
    return json.loads(path.read_text(encoding="utf-8"))


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


@dataclass(frozen=True, slots=True)
class HarnessRunDir:
    """The folder of one harness run: the view it reads, the folder it writes, the copied submission."""

    path: Path

    @property
    def view(self) -> Path:
        """The view of the split, which the harness reads."""
        return self.path / "view"

    @property
    def work(self) -> Path:
        """The working folder, which the harness writes."""
        return self.path / "work"

    @property
    def submission(self) -> Path:
        """The submission, copied out of the working folder."""
        return self.path / "submission"

    @property
    def keys(self) -> Path:
        """The map from the id in the view to the unit; never mounted."""
        return self.path / "keys.json"

    @property
    def log(self) -> Path:
        """The captured stdout and stderr of the harness."""
        return self.path / "stdout.log"

    @property
    def trajectories(self) -> Path:
        """Every model call of this harness run, one JSON object a line; no file if no model was called."""
        return self.path / "trajectories.jsonl"

    @property
    def faults(self) -> Path:
        """The failed model calls by question; exists if the harness could call a model."""
        return self.path / "faults.json"

    def clear(self) -> None:
        """Delete the files of an earlier attempt and make the folder."""
        parts = (self.view, self.work, self.submission, self.keys, self.log, self.trajectories, self.faults)
        for part in parts:
            remove_tree(part)
        self.path.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class GenerationDir:
    """The folder of one generation."""

    path: Path
    n: int

    @property
    def harness(self) -> Path:
        """The files of the harness."""
        return self.path / "harness"

    @property
    def adapter(self) -> Path:
        """The policy's adapter: trained here, or a link to the inherited one; does not exist for the base alone."""
        return self.path / "adapter"

    @property
    def resolved_adapter(self) -> Path | None:
        """The resolved folder of the adapter; None for the base alone."""
        return self.adapter.resolve() if self.adapter.exists() else None

    @property
    def training(self) -> Path:
        """The checkpoints of an unfinished weights update."""
        return self.path / "training"

    @property
    def curve(self) -> Path:
        """The training curve: one JSON object a line for each step of a weights update, written while it runs.

        Steps that a resume repeated occur twice, and a kill may have cut a line. The first complete line of a step
        counts.
        """
        return self.path / "curve.jsonl"

    @property
    def evidence(self) -> Path:
        """The evidence that the proposer reads."""
        return self.path / "evidence"

    def desk(self, sibling: int) -> Path:
        """Return the folder of one parallel proposal; the chosen one is copied to the generation's folder."""
        return self.path / "proposals" / str(sibling)

    @property
    def proposal(self) -> Path:
        """The proposal, as JSON."""
        return self.path / "proposal.json"

    @property
    def decision(self) -> Path:
        """The choice of lever, parent and algorithm, as JSON."""
        return self.path / "decision.json"

    @property
    def plan(self) -> Path:
        """The plan that a person has to approve, if `approve` says so; plan.json beside it is for programs."""
        return self.path / "plan.md"

    @property
    def rollouts(self) -> Path:
        """The scratch folder of harness runs during training; nothing in it is kept."""
        return self.path / "rollouts"

    @property
    def processes(self) -> Path:
        """The messages of several processes that train together; not deleted if the training failed."""
        return self.path / "processes"

    @property
    def scores(self) -> Path:
        """The outcomes and scores, as JSON."""
        return self.path / "scores.json"

    @property
    def gate(self) -> HarnessRunDir:
        """The harness run of the gate."""
        return HarnessRunDir(self.path / "gate")

    def harness_runs(self, rounds: int) -> list[HarnessRunDir]:
        """Return the harness runs: one in the generation's own folder, or a folder per fold if cross-fitted."""
        return (
            [HarnessRunDir(self.path)]
            if rounds == 1
            else [HarnessRunDir(self.path / f"fold_{k}") for k in range(rounds)]
        )


@dataclass(frozen=True, slots=True)
class RunDir:
    """A run directory: the paths of its files."""

    path: Path

    @property
    def config(self) -> Path:
        """The composed configuration."""
        return self.path / "config.yaml"

    @property
    def lock(self) -> Path:
        """The versions, hashes and machine of the run."""
        return self.path / "lock.json"

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / "journal.jsonl"

    @property
    def summary(self) -> Path:
        """The result of the run."""
        return self.path / "summary.json"

    @property
    def context(self) -> Path:
        """The history of the run in words, for the proposer and for people."""
        return self.path / "context.md"

    @property
    def ledger(self) -> Path:
        """The folder of the spending on models: a file per process, a line before and after each attempt."""
        return self.path / "ledger"

    @property
    def tracking(self) -> Path:
        """The folder of a tracker: the run's id at its service, and data that could not be sent yet."""
        return self.path / "tracking"

    @property
    def trials(self) -> Path:
        """The folder of the proposers' trials on dev questions, by content; shared by all generations."""
        return self.path / "trials"

    @property
    def probes(self) -> Path:
        """The folder of rewards that a harness earned before any training, by content; shared by all generations."""
        return self.path / "probes"

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

    def link_best(self, n: int) -> None:
        """Let the link `best` point to gen_<n>, atomically."""
        temporary = self.path / ".best.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"gen_{n}")
        temporary.replace(self.path / "best")
