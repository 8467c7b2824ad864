"""Competitions that MLE-bench prepared, as table tasks: private answers stay outside, val and dev are cut from train.

The grader and the leaderboard of mlebench are used for the final test where they are available; candidates are compared
by our metric of the same name, which has a value for each question.
"""

import csv
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_runner.ground.resources import bundled
from sia_runner.records import Score
from sia_runner.schema import task as task_config
from sia_runner.schema.competitions import Competition, named
from sia_runner.tasks.mlebench.layout import (
    fetch_competition,
    find_prepared,
    mlebench_data_dir,
    mlebench_package,
    not_prepared_error,
)
from sia_runner.tasks.mlebench.medals import read_leaderboard
from sia_runner.tasks.mlebench.official import GraderFailedError, grade_submission, write_submission
from sia_runner.tasks.prepare import ready
from sia_runner.tasks.protocol import Round, TaskError, View
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.verifiers.submission import UnreadableError, read_cells

SAMPLE = "sample_submission.csv"
_OPTIONS = ("verifier", "answer", "train", "sample", "answers", "train_files", "test_files")  # of convert.py


class Mlebench(TableTask):
    """A competition of MLE-bench (see sia_runner.tasks.protocol.Task)."""

    def __init__(self, spec: task_config.MlebenchTask, split_seed: int, cache: Path) -> None:
        self._mlebench, self._data_dir = spec, mlebench_data_dir(spec.prepared)
        self._competition = named(spec.competition)
        self._configure(split_seed, cache)

    def _configure(self, split_seed: int, cache: Path) -> None:
        """Set the paths and classes of the competition.

        They are known once it is prepared, which the installed package may do later.
        """
        spec = self._mlebench
        prepared = find_prepared(self._data_dir, spec.competition)
        if prepared is None and mlebench_package() is None:
            raise not_prepared_error(self._data_dir, spec.competition)
        self._prepared = prepared or self._data_dir / spec.competition / "prepared"
        super().__init__(_table(spec, self._competition, self._prepared), split_seed, cache)
        self.folder = bundled("tasks") / self._competition.folder
        self.reference = self.folder / "reference"

    def prepare(self, say: Callable[[str], None]) -> None:
        """Have mlebench prepare the competition where it is missing, then prepare the table's data."""
        competition = self._mlebench.competition
        if find_prepared(self._data_dir, competition) is None:
            say(f"task {self.name}: mlebench downloads and prepares {competition} in {self._data_dir}")
            fetch_competition(self._data_dir, competition)
            self._configure(self._seed, self._cache)
        super().prepare(say)

    @cached_property
    def _source(self) -> Path:
        if not self._prepared.is_dir():
            setting = f"task.competition={self._mlebench.competition}"
            raise TaskError(
                f"{setting} is not prepared in {self._data_dir}; have the installed mlebench do it, once: python -m "
                f"sia_runner.prepare task=mlebench {setting} task.prepared={self._data_dir}"
            )
        return ready(self.name, self._spec.data, self._home, self._cache, lambda _: None)

    def lay_out(self, fold: Round, dest: Path, salt: str) -> View:
        """Write the table's view, and a sample submission for its questions."""
        view = super().lay_out(fold, dest, salt)
        facts = json.loads((self._source / "competition.json").read_text(encoding="utf-8"))
        with (dest / SAMPLE).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([facts["id"], *facts["sample"]])
            writer.writerows([name, *facts["sample"].values()] for name in view.keys)
        (dest / SAMPLE).chmod(0o444)
        return view

    def standing(self, submission: Path, view_keys: Mapping[str, str], score: Score) -> dict[str, Any]:
        """Return the official score of a test submission, rounded as mlebench rounds, and its medal.

        There is no medal where there is no leaderboard.
        """
        package, graded, note = mlebench_package(), round(score.value, 5), ""
        grader = "sia_runner"
        if package:
            try:
                graded, grader = self._official(package, submission, view_keys), "mlebench"
            except GraderFailedError as error:
                note = f"mlebench's grader failed ({error})"
        result: dict[str, Any] = {"graded_by": grader, "score": graded, "note": note}
        if graded is None:
            return result | {"note": "mlebench's grader takes the submission for invalid: no score, no medal"}
        return result | self._on_leaderboard(package, graded)

    def _on_leaderboard(self, package: Path | None, score: float) -> dict[str, Any]:
        competition = self._mlebench.competition
        own = [package / "competitions" / competition / "leaderboard.csv"] if package else []
        beside = [folder / "leaderboard.csv" for folder in (self._prepared, self._prepared.parent)]
        board = read_leaderboard([*own, *beside])
        return board.standing(score) if board else {}

    def _official(self, package: Path, submission: Path, view_keys: Mapping[str, str]) -> float | None:
        spec, competition_spec = self._spec, self._competition
        limits = (20 * len(view_keys) + 10_000, spec.limits.submission_mb << 20)
        try:
            cells, _ = read_cells(
                submission / spec.submission, spec.columns.id, spec.answer_columns, view_keys, *limits
            )
        except (FileNotFoundError, UnreadableError):
            return None
        answers = {view_keys[name].removeprefix("test:"): answer for name, answer in cells.items()}
        with tempfile.TemporaryDirectory(prefix="sia-submission-") as temporary:
            path = Path(temporary) / "submission.csv"
            sample = self._prepared / "public" / competition_spec.sample
            write_submission(sample, competition_spec, spec.answer_columns, answers, path)
            competition = self._mlebench.competition
            return grade_submission(package, competition, self._prepared, path, spec.limits.verify)


def _table(spec: task_config.MlebenchTask, competition: Competition, prepared: Path) -> task_config.TableTask:
    """Return the competition as a table task, with data made by tasks/mlebench/convert.py."""
    options = {name: getattr(competition, name) for name in _OPTIONS}
    options |= {"id": competition.id or "", "test": competition.test or "", "most_rows": spec.most_rows}
    stratify = False if competition.verifier == "rmse" else spec.splits.stratify
    classes = list(competition.choices) or None
    if competition.verifier == "log_loss" and not classes:
        classes = _classes(prepared / "public" / competition.sample)
    return task_config.TableTask(
        name=f"{spec.name}_{spec.competition}",
        _target_="sia_runner.tasks.table.TableTask",
        folder="mlebench",
        data=task_config.Data(
            script="convert.py",
            local=str(prepared),
            arguments=options,
            labelled="labelled.csv",
            test="test.csv",
            answers="answers.csv",
            about="about.md",
            extra={"competition.json": "competition.json"},
            licence="the rules of the Kaggle competition hold",
        ),
        columns=task_config.Columns(
            id=competition.id or "row",
            answer=competition.answer,
            files=["file"] if competition.train_files else [],
            grouped_ids=competition.grouped,
        ),
        questions_as="test.csv",
        metric=spec.metric.model_copy(update={"choices": classes}),
        splits=spec.splits.model_copy(update={"stratify": stratify}),
        gate=spec.gate,
        limits=spec.limits,
        needs_model=spec.needs_model,
        published=spec.published,
        tiny=spec.tiny,
    )


def _classes(sample: Path) -> list[str]:
    """Return the columns of the sample submission except its first, the id."""
    try:
        with sample.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream), [])[1:]
    except OSError:
        return ["not", "known before it is prepared"]
