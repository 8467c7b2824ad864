"""Task folders of Harbor or Terminal-Bench as table tasks: an instruction is a question, their tests are the verifier.

The harness leaves files, and the tests run on them in a sandbox of their own. No container image is built: tasks whose
tests need one, or a network, are refused when the data is prepared (tasks/harbor/make_data.py).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from sia_runner.config import task as task_config
from sia_runner.config.task import HarborTaskConfig, TableTaskConfig
from sia_runner.records import Json
from sia_runner.tasks.protocol import Fold, FoldPurpose, TaskError, ViewKeys
from sia_runner.tasks.splits import SplitPlan
from sia_runner.tasks.table import TableTask

_FEWEST_TO_SPLIT = 8  # task folders
_START_SECONDS = 100.0  # at most, for the sandbox of one question's tests to begin and to end


class _ValOnlyPlan(SplitPlan):
    """The splits of a few folders: all of them are val, and none is left for a test."""

    def __init__(self, units: Sequence[str]) -> None:
        self.splits = {"train": [], "rollout": [], "dev": [], "val": list(units), "test": []}

    def rounds(self, purpose: FoldPurpose, train_fraction: float, questions: int | None) -> list[Fold]:
        """Return one fold to select by, and none for other purposes."""
        del train_fraction, questions
        return [Fold([], self.splits["val"])] if purpose == "select" else []


class HarborTask(TableTask):
    """Task folders of Harbor or Terminal-Bench (see sia_runner.tasks.protocol.Task)."""

    _start_seconds = _START_SECONDS

    def __init__(self, spec: HarborTaskConfig, split_seed: int, cache: Path) -> None:
        self._harbor = spec
        self._folder = Path(spec.dir).expanduser().resolve()
        if not self._folder.is_dir():
            raise TaskError(f"task.dir={spec.dir}: no such folder")
        super().__init__(_table_spec(spec, self._folder), split_seed, cache)
        self.has_test = _count_folders(self._folder) >= _FEWEST_TO_SPLIT

    def prepare(self, say: Callable[[str], None]) -> None:
        """Prepare the data; say what a score of few folders, or of tests that run submitted programs, is worth."""
        super().prepare(say)
        if not self.has_test:
            few = f"fewer than {_FEWEST_TO_SPLIT} folders"
            say(f"task {self.name}: {few}: candidates are selected on all of them, and none is left for a test")
        if warning := self._short_of_time():
            say(warning)
        if self._harbor.runs_submission:
            say(f"task {self.name}: its tests may run what was submitted, which can forge its reward: read the winners")

    def _short_of_time(self) -> str:
        """Return which tests have less time than their own settings allow them; empty where none has."""
        facts = (json.loads((self._source / "tests" / f"{unit}.json").read_text()) for unit in self._units.labelled)
        own = [fact["seconds"] for fact in facts]
        most = max(len(fold.questions) for purpose in ("select", "test") for fold in self.rounds(purpose))
        limit = self._harbor.limits.verify
        share = limit / most
        above = [seconds for seconds in own if seconds > share]
        if not above:
            return ""
        together = f"the tests of {most} questions have task.limits.verify={limit:g} s together, {share:.3g} s each"
        return f"task {self.name}: {together}; by their own settings {len(above)} may take up to {max(above):g} s"

    @cached_property
    def _plan(self) -> SplitPlan:
        return super()._plan if self.has_test else _ValOnlyPlan(list(self._units.labelled))

    def _verifier_data(self, keys: ViewKeys) -> dict[str, str]:
        """Return id in the view -> what the verifier runs; harnesses and proposers see none of it."""
        job: Mapping[str, object] = {
            "workdir": self._harbor.workdir,
            "runs_submission": self._harbor.runs_submission,
            "most_seconds": self._harbor.limits.verify / max(1, len(keys)),
        }
        return {
            name: json.dumps({**job, "tests": str(self._source / "tests" / f"{unit}.tar")})
            for name, unit in keys.items()
        }


def _count_folders(folder: Path) -> int:
    """Return the number of task folders, as make_data.py finds them."""
    for level in ("", "*/", "*/*/"):
        if paths := [*folder.glob(f"{level}task.toml"), *folder.glob(f"{level}task.yaml")]:
            return len({path.parent for path in paths})
    return 0


def _table_spec(spec: HarborTaskConfig, folder: Path) -> TableTaskConfig:
    arguments: Json = {"command": spec.command} if spec.command else {}
    return TableTaskConfig(
        name=f"harbor_{''.join(c if c.isalnum() else '_' for c in folder.name)}",
        _target_="sia_runner.tasks.table.TableTask",
        folder="harbor",
        data=task_config.DataSource(
            script="make_data.py",
            arguments=arguments,
            local=str(folder),
            labelled="labelled.csv",
            licence="that of the task folders",
        ),
        columns=task_config.TableColumns(answer="answer", files=["environment"]),
        runs_submission=True,  # of a sandbox: whatever was submitted, the tests run in one
        submission="answers/",
        gold_answers=False,
        metric=spec.metric,
        **{name: getattr(spec, name) for name in ("splits", "gate", "limits", "needs_model", "tiny")},
    )
