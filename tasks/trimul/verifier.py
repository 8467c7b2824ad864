"""The verifier of kernels: an answer is the seed of hidden data, on which the submission is run in the sandbox.

Without a GPU an outcome is worth the economy of its counted work (see `economy`), and a kernel that is right but cannot
be counted UNCOUNTED. On a GPU it is the microseconds of its shape, and a kernel that fails anywhere takes FAILED.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from cases import CORRECT, Case
from dialect import fault as leaves_dialect
from economy import share
from judge import Judge, RefusedError, Timing, geometric_mean, slack

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.tasks.submission_sandbox import ProgramEndedError, SubmissionSandbox

FILE = "submission.py"
MOST_BYTES = 1 << 20
UNCOUNTED = 0.01
FAILED = 1e6  # microseconds
_HERE = Path(__file__).resolve().parent
_DRIVER = ("candidate.py", "counting.py", "arena.py", "cuda_arena.py")
_SECONDS = 3600.0  # that one program in the sandbox has in all; the verifier's own limit is shorter
_LIVES = 3  # programs that may die before the rest is given up
_NOTHING = "import torch\n\n\ndef custom_kernel(data):\n    return torch.zeros_like(data[0])\n"
_ENDINGS = {"timeout": OutcomeKind.TIMEOUT, "late": OutcomeKind.TIMEOUT, "out_of_memory": OutcomeKind.OUT_OF_MEMORY}


class NoGpuInSandboxError(Exception):
    """The sandbox cannot run even a kernel of ours: nothing can be said about the submission."""


class WrongError(Exception):
    """An output is wrong; the message says where."""


def verify(
    submission: Path, answers: Mapping[str, str], questions: Mapping[str, Mapping[str, str]], sandbox: SubmissionSandbox
) -> list[Outcome]:
    """Run the submission in the sandbox and return one outcome per question."""
    on_gpu = {row["device"] for row in questions.values()} == {"cuda"}
    try:
        source = (submission / FILE).read_bytes()
    except FileNotFoundError:
        return [Outcome(unit, OutcomeKind.NO_ANSWER, FAILED if on_gpu else 0.0) for unit in answers]
    if len(source) > MOST_BYTES:
        note = f"({FILE} is larger than {MOST_BYTES >> 10} KiB)"
        return [Outcome(unit, OutcomeKind.INVALID_FORMAT, FAILED if on_gpu else 0.0, note) for unit in answers]
    outcomes_of = _timed if on_gpu else _counted
    return list(outcomes_of(source, answers, questions, sandbox))


def aggregate(outcomes: Sequence[Outcome]) -> float:
    """Return mean economy, or the geometric mean of microseconds.

    An economy is at most 1, and no kernel takes that little.
    """
    values = [outcome.value for outcome in outcomes]
    return geometric_mean(values) if min(values) > 1 else fmean(values)


def _counted(
    source: bytes, answers: Mapping[str, str], questions: Mapping[str, Mapping[str, str]], sandbox: SubmissionSandbox
) -> Iterator[Outcome]:
    outside = leaves_dialect(source)
    remaining, lives = list(answers), _LIVES
    while remaining:
        try:
            with sandbox.run(_files(source), "candidate.py", _SECONDS) as program:
                judge = Judge(program, "cpu", [Case.of(questions[unit]) for unit in remaining], count=not outside)
                try:
                    while remaining:
                        yield _one(judge, remaining[0], questions[remaining[0]], int(answers[remaining[0]]), outside)
                        remaining.pop(0)
                finally:
                    judge.close()
        except RefusedError as error:  # it could not even be loaded
            yield from (Outcome(unit, OutcomeKind.CRASHED, 0.0, f"({error})") for unit in remaining)
            return
        except ProgramEndedError as error:
            lives -= 1
            kind = _ENDINGS.get(error.ending, OutcomeKind.CRASHED)
            failed, remaining = (remaining[:1], remaining[1:]) if lives else (remaining, [])
            yield from (Outcome(unit, kind, 0.0, f"({error})") for unit in failed)


def _one(judge: Judge, unit: str, row: Mapping[str, str], seed: int, outside: str) -> Outcome:
    case = Case.of(row)
    try:
        run = judge.run(case, seed)
    except RefusedError as error:
        return Outcome(unit, OutcomeKind.CRASHED, 0.0, f"({case.name}: {error})")
    if run.fault:
        return Outcome(unit, OutcomeKind.WRONG, 0.0, f"({case.name}: {run.fault})")
    if not run.work:
        note = f"right; its work cannot be counted: {outside or 'no counts came back'}"
        return Outcome(unit, OutcomeKind.PARTIAL, UNCOUNTED, f"({case.name}: {note})")
    value = share(case, run.work)
    if value == 0:
        return Outcome(unit, OutcomeKind.WRONG, 0.0, f"({case.name}: counts less than its input and output)")
    counts = ", ".join(f"{name} {count}" for name, count in run.work.items())
    return Outcome(unit, OutcomeKind.PARTIAL, value, f"({case.name}: right; {counts})")


def _timed(
    source: bytes, answers: Mapping[str, str], questions: Mapping[str, Mapping[str, str]], sandbox: SubmissionSandbox
) -> list[Outcome]:
    """Time all shapes, or none: a kernel that is wrong somewhere is no faster anywhere."""
    cases = {unit: Case.of(questions[unit]) for unit in answers}
    shapes = list(dict.fromkeys(cases.values()))
    flush = any(row["flush_l2"] == "1" for row in questions.values())
    slacks = _slacks(sandbox, shapes)
    try:
        with sandbox.run(_files(source), "candidate.py", _SECONDS) as program:
            judge = Judge(program, "cuda", [*shapes, *CORRECT])
            try:
                _all_right(judge, int(next(iter(answers.values()))))
                return [
                    _of_timing(unit, case, judge.time(case, int(answers[unit]), slacks[case], flush=flush))
                    for unit, case in cases.items()
                ]
            finally:
                judge.close()
    except WrongError as error:
        kind, message = OutcomeKind.WRONG, str(error)
    except RefusedError as error:
        kind, message = OutcomeKind.CRASHED, str(error)
    except ProgramEndedError as error:
        kind, message = _ENDINGS.get(error.ending, OutcomeKind.CRASHED), str(error)
    return [Outcome(unit, kind, FAILED, f"({message})") for unit in answers]


def _all_right(judge: Judge, seed: int) -> None:
    """Run the 18 cases that must be right. Raises WrongError, which names the first that is not."""
    for number, case in enumerate(CORRECT):
        run = judge.run(case, seed + number + 1)
        if run.fault:
            raise WrongError(f"{case.name}: {run.fault}")


def _of_timing(unit: str, case: Case, timing: Timing) -> Outcome:
    if timing.fault:
        raise WrongError(f"{case.name}: {timing.fault}")
    basis = "by its CUDA events" if timing.believed else "by our clock, with which its events disagree"
    text = f"{timing.mean:.1f} ± {timing.error:.1f} us, {timing.repeats} repeats, {basis}"
    return Outcome(unit, OutcomeKind.PARTIAL, min(timing.mean, FAILED), f"({case.name}: {text})")


def _slacks(sandbox: SubmissionSandbox, shapes: Sequence[Case]) -> dict[Case, float]:
    """Return what our clock shows beyond a kernel, measured with an empty kernel of ours in the same sandbox."""
    try:
        with sandbox.run(_files(_NOTHING.encode()), "candidate.py", _SECONDS) as program:
            judge = Judge(program, "cuda", list(shapes))
            try:
                return {case: slack([judge.run(case, seed) for seed in range(12)][2:]) for case in shapes}
            finally:
                judge.close()
    except (RefusedError, ProgramEndedError) as error:
        raise NoGpuInSandboxError(str(error)) from error


def _files(source: bytes) -> dict[str, bytes]:
    return {FILE: source} | {name: (_HERE / name).read_bytes() for name in _DRIVER}
