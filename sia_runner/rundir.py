"""The run directory: names of its files, atomic writes, hashes. See DESIGN "Run directory" in docs/architecture.md."""

import hashlib
import json
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class RunError(Exception):
    """The run directory cannot be used; the message is one line for the user (exit code 2)."""


def write_text(path: Path, text: str) -> None:
    """Atomic: a reader sees the old file or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_sha256(folder: Path) -> str:
    """One hash over names and contents of all regular files below `folder`; links are named, never followed."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            digest.update(f"link {name} {path.readlink()}\n".encode(errors="surrogateescape"))
        elif path.is_file():
            digest.update(f"file {name} {sha256_of(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def remove(folder: Path) -> None:
    """Delete a folder that a hostile program filled: any depth, any mode, links not followed."""
    if not os.path.lexists(folder):
        return
    command = ["rm", "-rf", "--one-file-system", "--", str(folder)]
    if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(command, check=True)


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a harness runs once: the view it reads, the folder it writes, what was copied out."""

    path: Path

    @property
    def view(self) -> Path:
        return self.path / "view"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def submission(self) -> Path:
        return self.path / "submission"

    @property
    def keys(self) -> Path:
        """id in the view -> unit. Never mounted."""
        return self.path / "keys.json"

    @property
    def log(self) -> Path:
        return self.path / "stdout.log"

    @property
    def trajectories(self) -> Path:
        """Every model call of this run of a harness, one JSON object a line; none where no model was called."""
        return self.path / "trajectories.jsonl"

    @property
    def faults(self) -> Path:
        """What the gateway knows of failed calls, by question; there where a harness could call a model."""
        return self.path / "faults.json"

    def clear(self) -> None:
        made = (self.view, self.work, self.submission, self.keys, self.log, self.trajectories, self.faults)
        for part in made:
            remove(part)
        self.path.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Generation:
    path: Path
    n: int

    @property
    def harness(self) -> Path:
        return self.path / "harness"

    @property
    def adapter(self) -> Path:
        """Of the policy: trained here, or a link to the one that is inherited; not there for the base alone."""
        return self.path / "adapter"

    @property
    def adapter_used(self) -> Path | None:
        """The adapter's own folder; None for the base alone."""
        return self.adapter.resolve() if self.adapter.exists() else None

    @property
    def training(self) -> Path:
        """Checkpoints of a weights update under way."""
        return self.path / "training"

    @property
    def curve(self) -> Path:
        """What each step of a weights update was like, one JSON object a line, while it runs. Steps that a resume did
        again stand there twice, and a kill may have cut a line; the first whole one of a step counts."""
        return self.path / "curve.jsonl"

    @property
    def evidence(self) -> Path:
        return self.path / "evidence"

    def desk(self, sibling: int) -> Path:
        """Where one of several parallel proposals is made; the chosen one is copied to the generation's own folder."""
        return self.path / "proposals" / str(sibling)

    @property
    def proposal(self) -> Path:
        return self.path / "proposal.json"

    @property
    def decision(self) -> Path:
        return self.path / "decision.json"

    @property
    def plan(self) -> Path:
        """What a person is asked to approve, where `approve` says so; plan.json beside it for programs."""
        return self.path / "plan.md"

    @property
    def rollouts(self) -> Path:
        """Where the harness runs while its policy is trained; nothing is kept there."""
        return self.path / "rollouts"

    @property
    def processes(self) -> Path:
        """What several processes that train together are told and say; kept where that failed."""
        return self.path / "processes"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def gate(self) -> Site:
        return Site(self.path / "gate")

    def sites(self, rounds: int) -> list[Site]:
        """One run lives in the generation's own folder; a cross-fitted one has a folder per fold."""
        return [Site(self.path)] if rounds == 1 else [Site(self.path / f"fold_{k}") for k in range(rounds)]


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def lock(self) -> Path:
        return self.path / "lock.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def context(self) -> Path:
        return self.path / "context.md"

    @property
    def ledger(self) -> Path:
        """What was spent on models: a file per process, a line before and after each attempt."""
        return self.path / "ledger"

    @property
    def tracking(self) -> Path:
        """What a tracker keeps beside the run: its id there, and what could not be sent yet."""
        return self.path / "tracking"

    @property
    def trials(self) -> Path:
        """What proposers tried on dev questions, by content; shared by all generations."""
        return self.path / "trials"

    @property
    def probes(self) -> Path:
        """What rollouts of a harness earned before anything was trained, by content; shared by all generations."""
        return self.path / "probes"

    def job(self, step: str) -> Path:
        """What the jobs of a step of the journal leave: scripts, logs, the outcome."""
        return self.path / "jobs" / step

    def generation(self, n: int) -> Generation:
        return Generation(self.path / f"gen_{n}", n)

    def adapter_of(self, n: int | None) -> Path | None:
        """The adapter that candidate `n` runs on; None for the base alone."""
        return None if n is None else self.generation(n).adapter_used

    def test(self, n: int) -> Site:
        """Where generation `n` runs on the test split."""
        return Site(self.path / "test" / f"gen_{n}")

    def point_best(self, n: int) -> None:
        """best -> gen_<n>, replaced atomically."""
        temporary = self.path / ".best.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"gen_{n}")
        temporary.replace(self.path / "best")
