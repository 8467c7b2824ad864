"""Task folders of the sia-agent package, run as they are: their own evaluate.py scores, and nothing can be split.

    data/public/     task.md and what the harness may see (all but evaluate.py becomes the view)
    data/private/    gold answers, read by evaluate.py only
    evaluate.py      in data/public or at the top; ``python evaluate.py --gen-dir COPY`` writes COPY/results.json
    reference/       reference_target_agent.py

All questions are one pseudo-question in `val`, whose value is one number of results.json. So candidates are selected on
what would be the test set: has_test is False, and every report must say so.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_runner.config import task as task_config
from sia_runner.records import Outcome, OutcomeKind, Score
from sia_runner.store.run_directory import sha256_of
from sia_runner.tasks.collect import CopyQuota, collect_tree, read_refusal
from sia_runner.tasks.process import run_program
from sia_runner.tasks.protocol import DatasetView, Fold, FoldPurpose, Task, TaskError, ViewKeys

PSEUDO_QUESTION = "all"
RESULTS_FILE = "results.json"
_FILES = 5000  # at most so many files are taken out of work/


class SiaFolder(Task):
    """A task folder of sia-agent (see sia_runner.tasks.protocol.Task). It needs no seed: nothing is split."""

    has_test = False
    entry = "target_agent.py"
    executes = False  # evaluate.py does as it likes, outside

    def __init__(self, spec: task_config.SiaFolderTaskConfig, split_seed: int, cache: Path) -> None:
        del split_seed, cache
        self._spec = spec
        self.name, self.metric, self.higher_is_better = spec.name, spec.metric.name, spec.metric.higher_is_better
        self.folder = Path(spec.dir).expanduser().resolve()
        self._public = self.folder / "data" / "public"
        if not (self._public / "task.md").is_file():
            raise TaskError(f"task.dir={spec.dir}: no data/public/task.md in {self.folder}")
        candidates = [self._public / "evaluate.py", self.folder / "evaluate.py"]
        evaluator = next((path for path in candidates if path.is_file()), None)
        if evaluator is None:
            problem = "no evaluate.py in data/public or at the top; nothing can score"
            if (self._public / "sample_submission.csv").is_file() and (self.folder / "data" / "private").is_dir():
                # sia-agent makes such folders of competitions, without an evaluator
                competition = f"task.competition={self.folder.name} task.prepared={self.folder}"
                problem += f"; a competition of MLE-bench runs as task=mlebench {competition}"
            raise TaskError(f"task.dir={spec.dir}: {problem}")
        self._evaluator = evaluator
        self.reference = self.folder / "reference"
        if spec.reference:
            self.reference = Path(spec.reference).expanduser().resolve()
            if not self.reference.exists():
                raise TaskError(f"task.reference={spec.reference}: no such file or folder")
        elif not (self.reference / "requirements.txt").is_file():  # without it the folder may hold prompts alone
            self.reference /= "reference_target_agent.py"

    @property
    def description(self) -> str:
        """The text of data/public/task.md."""
        return (self._public / "task.md").read_text(encoding="utf-8")

    def prepare(self, say: Callable[[str], None]) -> None:
        """Say that candidates are selected on test questions; there is nothing to fetch."""
        consequence = "candidates are selected on its test questions"
        say(f"task {self.name}: {self.folder} brings its own evaluate.py: {consequence}")

    def data_hashes(self) -> dict[str, str]:
        """Return file name -> sha256 of all files of data/ and of the evaluator."""
        files = [path for path in (self.folder / "data").rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): sha256_of(path) for path in sorted({*files, self._evaluator})}

    def splits(self) -> Mapping[str, Sequence[str]]:
        """Return one pseudo-question in val, and nothing else."""
        return {"train": [], "rollout": [], "dev": [], "val": [PSEUDO_QUESTION], "test": []}

    def rounds(
        self, purpose: FoldPurpose, train_fraction: float = 1, questions: int | None = None, units: Sequence[str] = ()
    ) -> list[Fold]:
        """Return one fold to select by; none for gate, trial, test: the task has no smaller form and no second set."""
        del train_fraction, questions, units
        return [Fold([], [PSEUDO_QUESTION])] if purpose == "select" else []

    def dialogues(self) -> list[tuple[str, str]]:
        """Raise TaskError: a sia-agent folder has no training text."""
        raise TaskError(f"task {self.name}: a sia-agent folder has no training text to warm a policy on")

    def lay_out(self, fold: Fold, dest: Path, salt: str) -> DatasetView:
        """Copy data/public. Links are followed only to files within it."""
        del fold, salt
        shutil.copytree(self._public, dest, ignore=self._hidden, dirs_exist_ok=True)
        for path in dest.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o444)
        return DatasetView(dest, {PSEUDO_QUESTION: PSEUDO_QUESTION})

    def collect(self, work: Path, dest: Path) -> None:
        """Copy all regular files, as only evaluate.py knows the form; never a results.json of the harness."""
        quota = CopyQuota(_FILES, self._spec.limits.submission_mb << 20)
        collect_tree(work, dest, quota, leave=frozenset({RESULTS_FILE}))

    def verify(
        self, submission: Path, keys: ViewKeys, unanswered: OutcomeKind, sandbox_command: Sequence[str] = ()
    ) -> list[Outcome]:
        """Return one outcome with the number that evaluate.py gives, or with the reason why there is none."""
        del keys, sandbox_command
        if reason := read_refusal(submission):
            return [Outcome(PSEUDO_QUESTION, OutcomeKind.INVALID_FORMAT, 0.0, f"({reason})")]
        if not any(submission.iterdir()):
            return [Outcome(PSEUDO_QUESTION, unanswered, 0.0)]
        with tempfile.TemporaryDirectory(prefix="sia-evaluate-") as temporary:
            value = self._evaluate(submission, Path(temporary))
        if isinstance(value, float):
            return [Outcome(PSEUDO_QUESTION, OutcomeKind.PARTIAL, value)]
        # An evaluator that stumbles over what a crashed harness left is no fault of the evaluator.
        kind = OutcomeKind.VERIFIER_ERROR if unanswered is OutcomeKind.NO_ANSWER else unanswered
        return [Outcome(PSEUDO_QUESTION, kind, 0.0, f"({value})")]

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Return the evaluator's number. Its uncertainty is unknown, so the interval is that number."""
        [outcome] = outcomes
        return Score(outcome.value, (outcome.value, outcome.value), 1)

    def failures(self, outcomes: Sequence[Outcome], limit: int) -> list[dict[str, Any]]:
        """Return none: whatever evaluate.py knows of single questions is about test questions."""
        del outcomes, limit
        return []

    def _evaluate(self, submission: Path, temporary: Path) -> float | str:
        """Return the metric, or in one line why there is none; no output of evaluate.py, which may hold answers."""
        copy = temporary / "gen_1"
        shutil.copytree(submission, copy, symlinks=True)
        (copy / RESULTS_FILE).unlink(missing_ok=True)
        command = [sys.executable, str(self._evaluator), "--gen-dir", str(copy)]
        result = run_program(command, self._spec.limits.verify, temporary)
        if result.exit_code is None:
            return f"evaluate.py did not end within {self._spec.limits.verify:g} s"
        if result.exit_code != 0:
            last_line = result.errors.strip().rpartition("\n")[2]
            # the one error whose text is safe to show, and the commonest: a package that evaluate.py lacks
            shown = f": {last_line}" if last_line.startswith("ModuleNotFoundError: No module named") else ""
            return f"evaluate.py ended with exit code {result.exit_code}{shown}"
        try:
            metrics = finite_numbers(json.loads((copy / RESULTS_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            return f"evaluate.py ended well, but {RESULTS_FILE} cannot be read: {type(error).__name__}"
        if self.metric not in metrics:
            names = ", ".join(list(metrics)[:20]) or "no number"
            return f"{RESULTS_FILE} of evaluate.py has no number {self.metric!r} (task.metric.name); it has: {names}"
        return metrics[self.metric]

    def _hidden(self, folder: str, names: list[str]) -> list[str]:
        """Return the names to leave out: evaluate.py, and links that lead out of the folder."""
        hidden = []
        for path in (Path(folder) / name for name in names):
            leads_away = path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(self._public))
            if leads_away or path.resolve() == self._evaluator.resolve() or path.name == "__pycache__":
                hidden.append(path.name)
        return hidden


def finite_numbers(results: Any, prefix: str = "") -> dict[str, float]:
    """Return all finite numbers of nested results, keys joined by dots. Texts and lists may hold answers."""
    if isinstance(results, dict):
        by_key: dict[str, float] = {}
        for key, value in results.items():
            by_key |= finite_numbers(value, f"{prefix}.{key}" if prefix else str(key))
        return by_key
    if isinstance(results, int | float) and abs(results) <= sys.float_info.max:  # NaN fails the comparison
        return {prefix: float(results)}
    return {}
