"""The verifier of tasks of Harbor: their tests, in a sandbox of their own, on the files that the harness left.

Only the reward of the tests counts: logs/verifier/reward.txt or reward.json, or where there is neither the exit code of
the command. Tests share their sandbox with what was submitted, so programs are not taken unless the task says so.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.store.files import as_number, load_json, read_text, regular_files
from sia_runner.tasks.submission_sandbox import ProgramEndedError, SubmissionSandbox
from sia_runner.tasks.worker import BadVerifierError

FOLDER = "answers"
_GRACE = 60.0  # seconds for unpacking and for the sandbox
_PROGRAM_SUFFIXES = {
    ".py",
    ".pyc",
    ".pth",
    ".so",
    ".sh",
    ".bash",
    ".js",
    ".rb",
    ".pl",
    ".exe",
    ".ini",
    ".toml",
    ".cfg",
    ".ipynb",
    ".pkl",
    ".pickle",
    ".joblib",
}
_PROGRAM_NAMES = {"makefile", "gnumakefile", "package.json"}
_PROGRAM_FOLDERS = (".dist-info", ".egg-info", ".egg")  # what pytest loads plugins by
_PROGRAM_HEADS = (b"#!", b"\x7fELF")


def verify(
    submission: Path, answers: Mapping[str, str], questions: Mapping[str, Mapping[str, str]], sandbox: SubmissionSandbox
) -> list[Outcome]:
    """Return one outcome per question for which a file was left. `answers`: id -> JSON with what is to be run."""
    outcomes = []
    for unit, text in answers.items():
        files = _files(submission / FOLDER / unit)
        if files:
            outcomes.append(_outcome(unit, files, json.loads(text), Path(questions[unit]["environment"]), sandbox))
    return outcomes


def _files(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in regular_files(folder)}


def _is_program(name: str, data: bytes) -> bool:
    path = Path(name)
    by_name = path.suffix.lower() in _PROGRAM_SUFFIXES or path.name.lower() in _PROGRAM_NAMES
    by_folder = any(part.lower().endswith(_PROGRAM_FOLDERS) for part in path.parts)
    return by_name or by_folder or data.startswith(_PROGRAM_HEADS)


def _outcome(
    unit: str, files: Mapping[str, bytes], job: dict, environment: Path, sandbox: SubmissionSandbox
) -> Outcome:
    names = ", ".join(files)[:300]
    programs = [name for name, data in files.items() if _is_program(name, data)]
    if programs and not job["runs_submission"]:
        note = f"({programs[0]} is a program or its settings, which this task does not take: task.runs_submission)"
        return Outcome(unit, OutcomeKind.INVALID_FORMAT, 0.0, note)
    tests = Path(job["tests"])
    facts = json.loads(tests.with_suffix(".json").read_text(encoding="utf-8"))
    parts = {
        "drive.py": Path(__file__).with_name("drive.py").read_bytes(),
        "environment.tar": environment.read_bytes(),
        "tests.tar": tests.read_bytes(),
        "submission.tar": _packed(files),
    }
    seconds = min(facts["seconds"], job["most_seconds"])
    try:
        with sandbox.run(parts, "drive.py", seconds + _GRACE) as program:
            told = {"command": facts["command"], "seconds": seconds, "workdir": job["workdir"]}
            answer = program.ask(told, seconds + _GRACE)
            reward = _reward(program.work, answer.get("exit_code"))
    except ProgramEndedError as error:  # tests that take the sandbox's memory or time have not passed
        kind = {"timeout": OutcomeKind.TIMEOUT, "late": OutcomeKind.TIMEOUT, "out_of_memory": OutcomeKind.OUT_OF_MEMORY}
        return Outcome(unit, kind.get(error.ending, OutcomeKind.WRONG), 0.0, names)
    if answer.get("missing"):
        raise BadVerifierError(f"its tests cannot be run in the sandbox: {facts['command']} is not installed there")
    if answer.get("exit_code") is None:
        return Outcome(unit, OutcomeKind.TIMEOUT, 0.0, names)
    kind = OutcomeKind.CORRECT if reward >= 1 else OutcomeKind.PARTIAL if reward > 0 else OutcomeKind.WRONG
    return Outcome(unit, kind, reward, names)


def _packed(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755 if data.startswith(_PROGRAM_HEADS) else 0o644
            out.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _reward(work: Path, exit_code: object) -> float:
    """Return the reward that the tests left, or 0 where it is no number; links are not followed."""
    rewards = load_json(work, "logs/verifier/reward.json", 64 << 10)
    if isinstance(rewards, dict):
        values = list(rewards.values())
        rewards = rewards.get("reward", values[0] if len(values) == 1 else "several")
    if rewards is not None:
        return as_number(rewards) or 0.0
    text = read_text(work, "logs/verifier/reward.txt", 64)
    if text is None:
        return float(exit_code == 0)
    try:
        return as_number(float(text)) or 0.0
    except ValueError:
        return 0.0
