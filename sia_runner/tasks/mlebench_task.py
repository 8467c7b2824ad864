"""Competitions that MLE-bench prepared, as table tasks: private answers stay outside, val and dev are cut from train.

The grader and the leaderboard of mlebench are used for the final test where they are available; candidates are compared
by our metric of the same name, which has a value for each question. The leaderboard was scored on Kaggle's own hidden
test set, while MLE-bench cuts its test set from the public training data: that is its protocol.
"""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from sia_runner.config import task as task_config
from sia_runner.config.task import Competition, MlebenchTaskConfig, TableTaskConfig, competition_named
from sia_runner.records import Json, Score
from sia_runner.system import bundled_folder
from sia_runner.tasks.process import run_program
from sia_runner.tasks.protocol import DatasetView, Fold, TaskError, ViewKeys
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.verifiers.submission import UnreadableError, read_cells
from sia_runner.tasks.views import write_csv
from sia_runner.text import one_line

_INSTALL_HINT = "pip install git+https://github.com/openai/mle-bench (it is not on the package index)"
_CREDENTIALS = (
    "Kaggle's credentials (KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json), its rules accepted there"
)
_PREPARE_SECONDS = 6 * 3600  # some competitions are hundreds of gigabytes
_MEDALS = ("gold", "silver", "bronze")
_SAMPLE = "sample_submission.csv"
_OPTIONS = ("verifier", "answer", "train", "sample", "answers")  # of convert.py


def _find_prepared(folder: Path, competition: str) -> Path | None:
    """Return the folder with public/ and private/, of mlebench or of a sia-agent task made of it, or None."""
    names = (f"{competition}/prepared", f"{competition}/data", "prepared", "data", ".")
    candidates = (folder / name for name in names)
    return next((path for path in candidates if (path / "public").is_dir() and (path / "private").is_dir()), None)


def mlebench_package() -> Path | None:
    """Return the folder of the installed mlebench package, without importing it; None where it is not installed."""
    spec = importlib.util.find_spec("mlebench")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


def _fetch_competition(folder: Path, competition: str) -> None:
    """Let the installed package download and prepare a competition, with the user's environment. Raises TaskError."""
    command = [sys.executable, "-c", "from mlebench.cli import main; main()", "prepare", "-c", competition]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        completed = subprocess.run(
            [*command, "--data-dir", str(folder)],
            cwd=folder,  # mlebench keeps a cache of its own in the current folder
            stdin=subprocess.DEVNULL,  # it would ask whether to open the page with the rules
            capture_output=True,
            text=True,
            timeout=_PREPARE_SECONDS,
            check=False,
        )
        problem = completed.stderr.strip().rpartition("\n")[2][:300] if completed.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"it did not end within {_PREPARE_SECONDS // 3600} hours"
    if problem:
        raise TaskError(f"mlebench prepare -c {competition} failed: {problem}; it takes {_CREDENTIALS}")


class _GraderFailedError(Exception):
    """The grader of mlebench could not be run; the message says why in a few words."""


def _write_submission(
    sample: Path, id_column: str | None, columns: Sequence[str], answers: Mapping[str, tuple[str, ...]], dest: Path
) -> None:
    """Write the sample submission with the answers put in, by id or else row number, and unanswered rows left out."""
    with (
        sample.open(encoding="utf-8-sig", newline="") as source,
        dest.open("w", encoding="utf-8", newline="") as target,
    ):
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, rows.fieldnames or [])
        writer.writeheader()
        for number, row in enumerate(rows):
            cells = answers.get(row[id_column] if id_column else str(number))
            if cells is not None:
                writer.writerow(row | dict(zip(columns, cells, strict=True)))


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The scores of a leaderboard, best first."""

    scores: Sequence[float]

    @property
    def thresholds(self) -> dict[str, float]:
        """The scores that win each medal, and the median score."""
        ranks = zip(_MEDALS, _medal_ranks(len(self.scores)), strict=True)
        return {medal: self.scores[rank - 1] for medal, rank in ranks} | {"median": median(self.scores)}

    def compare(self, score: float) -> dict[str, object]:
        """Return the best medal whose threshold the score reaches, and whether it is above the median."""
        sign, thresholds = (-1 if self.scores[0] < self.scores[-1] else 1), self.thresholds
        medal = next((medal for medal in _MEDALS if sign * score >= sign * thresholds[medal]), None)
        above = sign * score > sign * thresholds["median"]
        return {"medal": medal, "above_median": above, "thresholds": thresholds, "teams": len(self.scores)}


def _medal_ranks(teams: int) -> tuple[int, int, int]:
    """Return Kaggle's last ranks that win a medal (kaggle.com/progression), rounded as MLE-bench does."""
    tenth, fifth, two_fifths = (max(1, int(teams * share)) for share in (0.1, 0.2, 0.4))
    if teams < 100:
        return tenth, fifth, two_fifths
    if teams < 250:
        return 10, fifth, two_fifths
    if teams < 1000:
        return 10 + int(teams * 0.002), 50, 100
    return 10 + int(teams * 0.002), max(1, int(teams * 0.05)), tenth


def read_leaderboard(candidates: Sequence[Path]) -> Leaderboard | None:
    """Read the first file that holds scores (a git-lfs pointer holds none); None where none does."""
    for path in candidates:
        if path.is_file():
            with path.open(encoding="utf-8-sig", newline="") as stream:
                if scores := [float(row["score"]) for row in csv.DictReader(stream) if row.get("score")]:
                    return Leaderboard(scores)
    return None


class Mlebench(TableTask):
    """A competition of MLE-bench (see sia_runner.tasks.protocol.Task)."""

    def __init__(self, spec: MlebenchTaskConfig, split_seed: int, cache: Path) -> None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # mlebench keeps its data there
        self._data_dir = Path(spec.prepared).expanduser().resolve() if spec.prepared else caches / "mle-bench" / "data"
        self._mlebench = spec
        self._competition = competition_named(spec.competition)
        self._configure(split_seed, cache)

    def _configure(self, split_seed: int, cache: Path) -> None:
        spec = self._mlebench
        prepared = _find_prepared(self._data_dir, spec.competition)
        if prepared is None and mlebench_package() is None:
            raise TaskError(
                f"task.competition={spec.competition}: no {spec.competition}/prepared/public and private in "
                f"{self._data_dir} (task.prepared); make it with `mlebench prepare -c {spec.competition} --data-dir "
                f"{self._data_dir}`, which takes {_CREDENTIALS}; {_INSTALL_HINT}"
            )
        self._prepared = prepared or self._data_dir / spec.competition / "prepared"
        super().__init__(_table_spec(spec, self._competition, self._prepared), split_seed, cache)
        self.folder = bundled_folder("tasks") / self._competition.folder
        self.reference = self.folder / "reference"

    def prepare(self, say: Callable[[str], None]) -> None:
        """Have mlebench prepare the competition where it is missing, then prepare the table's data."""
        competition = self._mlebench.competition
        if _find_prepared(self._data_dir, competition) is None:
            say(f"task {self.name}: mlebench downloads and prepares {competition} in {self._data_dir}")
            _fetch_competition(self._data_dir, competition)
            self._configure(self._seed, self._cache)
        super().prepare(say)

    @cached_property
    def _source(self) -> Path:
        if not self._prepared.is_dir():
            setting = f"task.competition={self._mlebench.competition}"
            raise TaskError(
                f"{setting} is not prepared in {self._data_dir}; have the installed mlebench do it, once: python -m "
                f"sia_runner prepare task=mlebench {setting} task.prepared={self._data_dir}"
            )
        return super()._source

    def lay_out(self, fold: Fold, dest: Path, salt: str) -> DatasetView:
        """Write the table's view, and a sample submission for its questions."""
        view = super().lay_out(fold, dest, salt)
        facts = json.loads((self._source / "competition.json").read_text(encoding="utf-8"))
        rows = ([name, *facts["sample"].values()] for name in view.keys)
        write_csv(dest / _SAMPLE, [facts["id"], *facts["sample"]], rows)
        return view

    def official_grade(self, submission: Path, keys: ViewKeys, score: Score) -> Json:
        """Return the official score of a test submission, rounded as mlebench rounds, and its medal if any."""
        package, graded, grader, note, log = mlebench_package(), round(score.value, 5), "sia_runner", "", ""
        if package:
            try:
                (graded, log), grader = self._official(package, submission, keys), "mlebench"
            except _GraderFailedError as error:
                note = f"mlebench's grader failed ({error})"
        result: Json = {"graded_by": grader, "score": graded, "note": note}
        if graded is None:
            why = f" ({log})" if log else ""
            return result | {"note": f"mlebench's grader takes the submission for invalid{why}: no score, no medal"}
        folders = [package / "competitions" / self._mlebench.competition] if package else []
        board = read_leaderboard([f / "leaderboard.csv" for f in (*folders, self._prepared, self._prepared.parent)])
        return result | (board.compare(graded) if board else {})

    def _official(self, package: Path, submission: Path, keys: ViewKeys) -> tuple[float | None, str]:
        """Return the score and the last that mlebench's grader logged; None: it takes the submission for invalid.

        Raises _GraderFailedError.
        """
        spec, competition, seconds = self._spec, self._mlebench.competition, self._spec.limits.verify
        path, limits = submission / spec.submission, (20 * len(keys) + 10_000, spec.limits.submission_mb << 20)
        try:
            cells, _ = read_cells(path, spec.columns.id, spec.answer_columns, keys, *limits)
        except (FileNotFoundError, UnreadableError) as error:
            return None, one_line(str(error) if isinstance(error, UnreadableError) else f"no {spec.submission}")
        answers = {keys[name].removeprefix("test:"): answer for name, answer in cells.items()}
        with tempfile.TemporaryDirectory(prefix="sia-mlebench-") as temporary:
            path, folder = Path(temporary) / "submission.csv", Path(temporary) / "data" / competition
            sample = self._prepared / "public" / self._competition.sample
            _write_submission(sample, self._competition.id, spec.answer_columns, answers, path)
            folder.mkdir(parents=True)
            (folder / "prepared").symlink_to(self._prepared)
            program = bundled_folder("tasks") / "mlebench" / "grader.py"
            arguments = [program, package.parent, competition, folder.parent, path]
            result = run_program([sys.executable, "-I", *map(str, arguments)], seconds, Path(temporary))
        if result.exit_code is None:
            raise _GraderFailedError(f"no answer within {seconds:g} s")
        last_line = one_line(result.errors.strip().rpartition("\n")[2])
        if result.exit_code:
            raise _GraderFailedError(last_line)
        return json.loads(result.output.decode().strip().rpartition("\n")[2])["score"], last_line


def _table_spec(spec: MlebenchTaskConfig, competition: Competition, prepared: Path) -> TableTaskConfig:
    options = {name: getattr(competition, name) for name in _OPTIONS}
    options |= dict(zip(("train_files", "test_files"), competition.files, strict=True))
    options |= {"id": competition.id or "", "test": competition.test or "", "most_rows": spec.max_rows}
    stratify = False if competition.verifier == "rmse" else spec.splits.stratify
    classes = list(competition.choices) or None
    if competition.verifier == "log_loss" and not classes:  # the columns of the sample submission, except the id
        try:
            with (prepared / "public" / competition.sample).open(encoding="utf-8-sig", newline="") as stream:
                classes = next(csv.reader(stream), [])[1:]
        except OSError:
            classes = ["not", "known before it is prepared"]
    files = ["file"] if competition.files[0] else []
    return TableTaskConfig(
        name=f"{spec.name}_{spec.competition}",
        _target_="sia_runner.tasks.table.TableTask",
        folder="mlebench",
        data=task_config.DataSource(
            script="convert.py",
            local=str(prepared),
            arguments=options,
            labelled="labelled.csv",
            test="test.csv",
            answers="answers.csv",
            description_file="about.md",
            extra={"competition.json": "competition.json"},
            licence="the rules of the Kaggle competition hold",
        ),
        columns=task_config.TableColumns(
            id=competition.id or "row", answer=competition.answer, files=files, grouped_ids=competition.grouped
        ),
        questions_alias="test.csv",
        metric=spec.metric.model_copy(update={"choices": classes}),
        splits=spec.splits.model_copy(update={"stratify": stratify}),
        **{name: getattr(spec, name) for name in ("gate", "limits", "needs_model", "published", "tiny")},
    )
