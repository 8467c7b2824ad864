"""Submit jobs with sbatch, and understand its answer behind whatever wrapper a site puts in front of it.

The jobs are submitit's. It is not asked to submit them: it takes the first ``job N`` of what sbatch prints, prints the
errors of each try, and knows no other form of an answer.
"""

import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

QUERY_TIMEOUT = 60.0  # seconds for one query of SLURM
PATIENCE = 3600.0  # seconds that a submission is tried again
AGAIN = 5.0  # seconds between two tries
_DOUBTFUL = 60.0  # seconds after which a refusal whose reason is not named may be one that never passes
_MAX_CHARS = 600  # of what sbatch said
# the same submission may do later: a controller that is away; a user's full queue
_AWAY = re.compile("unable to contact|socket timed out|connection refused|zero bytes|temporarily|try again", re.I)
_FULL = re.compile("job submit limit|MaxSubmitJob|submitted too many|job violates accounting/QOS policy", re.I)
_NAMED_LIMIT = re.compile(r"\b(?:QOS|Assoc)\w+Limit\b")  # QOSMaxWallDurationPerJobLimit, AssocMaxSubmitJobLimit
_TELLING = re.compile(r"error|fatal|failure|^s(batch|alloc|run): ", re.I)
_PREFIX = re.compile(
    r"^(s(batch|alloc|run): )?((error|fatal): )?"
    r"(Batch job submission failed: |Job submit/allocate failed: |allocation failure: )?"
)
_SUBMITTED = re.compile(r"Submitted batch job (\d+)(?: on cluster \S+)?")
_PARSABLE = re.compile(r"(\d+)(?:;\S+)?")


class SubmissionError(Exception):
    """A refusal of sbatch or salloc, with all lines that say why."""

    def __init__(self, output: str) -> None:
        lines = [line.strip() for line in output.splitlines() if line.strip()] or ["nothing"]
        telling = [line for line in lines if _TELLING.search(line)] or lines
        text = "; ".join(dict.fromkeys(_PREFIX.sub("", line) or line for line in telling))[:_MAX_CHARS]
        super().__init__(text)
        limits = _NAMED_LIMIT.findall(text)
        submit_limit = all("Submit" in limit for limit in limits)  # the others hold for this job by itself
        self.queue_full = bool(_FULL.search(text)) and submit_limit
        self.transient = submit_limit and bool(self.queue_full or _AWAY.search(text))
        self.array_too_large = "job array specification" in text
        self._time_limit = bool(re.search(r"Wall|time limit", text))
        self._unexplained = self._time_limit and not limits

    def advice(self, key: str, waited: float = 0.0) -> str:
        """Return what to change about the resources at `key`, once it is likely that waiting does not help."""
        if self._unexplained and waited >= _DOUBTFUL:
            return f"; it may never pass: lower {key}.minutes"
        return f"; lower {key}.minutes" if self._time_limit and not self.transient else ""


def environment_outside_jobs() -> dict[str, str]:
    """Return this environment without the variables that a job would inherit from an enclosing job."""
    inside = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SUBMITIT_")
    distributed = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    names = [name for name in os.environ if name == "SLURM_CONF" or not name.startswith(inside)]
    return {name: os.environ[name] for name in names if name not in distributed}


def run_command(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Run a command of SLURM; return None if it could not be run or answered too late."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=QUERY_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def read_job_id(output: str) -> str | None:
    """Return the job of the last ``Submitted batch job N``, or of the only ``N[;cluster]``, on a line of its own."""
    lines = [line.strip() for line in output.splitlines()]
    if submitted := [match[1] for line in lines if (match := _SUBMITTED.fullmatch(line))]:
        return submitted[-1]
    bare = {match[1] for line in lines if (match := _PARSABLE.fullmatch(line))}
    return bare.pop() if len(bare) == 1 else None


def submit_jobs(
    folder: Path, parameters: dict[str, Any], functions: Sequence[Callable[[], Any]], max_timeouts: int = 3
) -> list[str]:
    """Submit a callable as a job, or several as an array, and return the ids of the jobs. Raises SubmissionError."""
    from submitit.core.utils import DelayedSubmission
    from submitit.slurm.slurm import _make_sbatch_string

    nonce = uuid.uuid4().hex[:8]
    name = f"{parameters['job_name'].replace(',', '_')}:{nonce}"  # to find the job where sbatch does not name it
    program = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder)])
    count = len(functions) if len(functions) > 1 else None
    text = _make_sbatch_string(command=program, folder=folder, map_count=count, **{**parameters, "job_name": name})
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f".{nonce}.sh"
    script.write_text(text)
    pickles = [folder / f".{nonce}_{index}.pkl" for index in range(len(functions))]
    try:
        for function, pickle in zip(functions, pickles, strict=True):
            delayed = DelayedSubmission(function)
            delayed.set_timeout(parameters.get("time", 5), max_timeouts)
            delayed.dump(pickle)
        job = _sbatch(script, name)
        ids = [job] if count is None else [f"{job}_{index}" for index in range(count)]
        for pickle, task in zip(pickles, ids, strict=True):
            pickle.rename(folder / f"{task}_submitted.pkl")  # the job waits for it
        script.rename(folder / f"{job}_submission.sh")
    finally:
        for path in (script, *pickles):
            path.unlink(missing_ok=True)
    return ids


def _sbatch(script: Path, name: str) -> str:
    """Submit a script and return the id of its job, which has this name and no other job does."""
    command, outside, no_input = ["sbatch", str(script)], environment_outside_jobs(), subprocess.DEVNULL
    try:
        answer = subprocess.run(command, stdin=no_input, capture_output=True, text=True, check=False, env=outside)
    except OSError as error:
        raise SubmissionError(str(error)) from error
    if not answer.returncode and (job := read_job_id(answer.stdout)):
        return job
    refused = SubmissionError(answer.stderr if answer.stderr.strip() else answer.stdout)
    if answer.returncode and "timed out" not in str(refused):
        raise refused
    # `--quiet` says nothing; and a controller that answered too late may have taken the job
    named = run_command(["squeue", "--noheader", "--states=all", "--format=%F", f"--name={name}"])
    jobs = set(named.stdout.split()) if named else set[str]()
    if len(jobs) == 1:
        return jobs.pop()
    if answer.returncode:
        raise refused
    run_command(["scancel", f"--name={name}"])
    output = " ".join(f"{answer.stdout} {answer.stderr}".split())[:_MAX_CHARS]
    raise SubmissionError(f"error: sbatch named no job, so jobs called {name} are cancelled; it printed: {output!r}")
