"""A competition that MLE-bench prepared, as a table task: private answers stay outside, val and dev are cut from train.

mlebench's own grader and leaderboard are asked about the final test where they are at hand; candidates are compared by
our metric of the same name, which has a value for each question.
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
from sia_runner.tasks.mlebench import layout, official
from sia_runner.tasks.mlebench.medals import read_leaderboard
from sia_runner.tasks.prepare import ready
from sia_runner.tasks.protocol import Round, TaskError, View
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.verifiers.submission import UnreadableError, read_cells

SAMPLE = "sample_submission.csv"
_OPTIONS = ("verifier", "answer", "train", "sample", "answers", "train_files", "test_files")  # of convert.py


class Mlebench(TableTask):
    """See sia_runner.tasks.protocol.Task."""

    def __init__(self, spec: task_config.MlebenchTask, split_seed: int, cache: Path) -> None:
        self._mlebench, self._data_dir = spec, layout.data_dir(spec.prepared)
        self._competition = named(spec.competition)
        self._take_up(split_seed, cache)

    def _take_up(self, split_seed: int, cache: Path) -> None:
        """Its place and its classes are known once it is prepared, which the installed package may do later."""
        spec = self._mlebench
        found = layout.find(self._data_dir, spec.competition)
        if found is None and layout.package() is None:
            raise layout.not_prepared(self._data_dir, spec.competition)
        self._prepared = found or self._data_dir / spec.competition / "prepared"
        super().__init__(_table(spec, self._competition, self._prepared), split_seed, cache)
        self.folder = bundled("tasks") / self._competition.folder
        self.reference = self.folder / "reference"

    def prepare(self, say: Callable[[str], None]) -> None:
        competition = self._mlebench.competition
        if layout.find(self._data_dir, competition) is None:
            say(f"task {self.name}: mlebench downloads and prepares {competition} in {self._data_dir}")
            layout.fetch(self._data_dir, competition)
            self._take_up(self._seed, self._cache)
        super().prepare(say)

    @cached_property
    def _source(self) -> Path:
        if not self._prepared.is_dir():
            what = f"task.competition={self._mlebench.competition}"
            raise TaskError(
                f"{what} is not prepared in {self._data_dir}; have the installed mlebench do it, once: python -m "
                f"sia_runner.prepare task=mlebench {what} task.prepared={self._data_dir}"
            )
        return ready(self.name, self._spec.data, self._home, self._cache, lambda _: None)

    def lay_out(self, round_: Round, dest: Path, salt: str) -> View:
        """The table's view, and a sample submission for its questions."""
        view = super().lay_out(round_, dest, salt)
        facts = json.loads((self._source / "competition.json").read_text(encoding="utf-8"))
        with (dest / SAMPLE).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([facts["id"], *facts["sample"]])
            writer.writerows([name, *facts["sample"].values()] for name in view.keys)
        (dest / SAMPLE).chmod(0o444)
        return view

    def standing(self, submission: Path, view_keys: Mapping[str, str], score: Score) -> dict[str, Any]:
        """The official score of a test submission, rounded as mlebench rounds, and its medal where there is a
        leaderboard."""
        package, graded, note = layout.package(), round(score.value, 5), ""
        by = "sia_runner"
        if package:
            try:
                graded, by = self._official(package, submission, view_keys), "mlebench"
            except official.GraderFailedError as error:
                note = f"mlebench's grader failed ({error})"
        found: dict[str, Any] = {"graded_by": by, "score": graded, "note": note}
        if graded is None:
            return found | {"note": "mlebench's grader takes the submission for invalid: no score, no medal"}
        return found | self._on_leaderboard(package, graded)

    def _on_leaderboard(self, package: Path | None, score: float) -> dict[str, Any]:
        competition = self._mlebench.competition
        own = [package / "competitions" / competition / "leaderboard.csv"] if package else []
        beside = [folder / "leaderboard.csv" for folder in (self._prepared, self._prepared.parent)]
        board = read_leaderboard([*own, *beside])
        return board.standing(score) if board else {}

    def _official(self, package: Path, submission: Path, view_keys: Mapping[str, str]) -> float | None:
        spec, one = self._spec, self._competition
        most = (20 * len(view_keys) + 10_000, spec.limits.submission_mb << 20)
        try:
            cells, _ = read_cells(submission / spec.submission, spec.columns.id, spec.answer_columns, view_keys, *most)
        except (FileNotFoundError, UnreadableError):
            return None
        answers = {view_keys[name].removeprefix("test:"): given for name, given in cells.items()}
        with tempfile.TemporaryDirectory(prefix="sia-submission-") as temporary:
            path = Path(temporary) / "submission.csv"
            sample = self._prepared / "public" / one.sample
            official.write_submission(sample, one, spec.answer_columns, answers, path)
            competition = self._mlebench.competition
            return official.grade(package, competition, self._prepared, path, spec.limits.verify)


def _table(spec: task_config.MlebenchTask, one: Competition, prepared: Path) -> task_config.TableTask:
    """The competition as a table task, its data made by tasks/mlebench/convert.py."""
    options = {name: getattr(one, name) for name in _OPTIONS}
    options |= {"id": one.id or "", "test": one.test or "", "most_rows": spec.most_rows}
    stratify = False if one.verifier == "rmse" else spec.splits.stratify
    classes = list(one.choices) or None
    if one.verifier == "log_loss" and not classes:
        classes = _classes(prepared / "public" / one.sample)
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
            id=one.id or "row",
            answer=one.answer,
            files=["file"] if one.train_files else [],
            grouped_ids=one.grouped,
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
    """The columns of the sample submission but its first, the id."""
    try:
        with sample.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream), [])[1:]
    except OSError:
        return ["not", "known before it is prepared"]
