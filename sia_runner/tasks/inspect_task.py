"""Tasks of Inspect AI as table tasks: their samples are the questions, and their own scorer is the verifier.

The harness is the solver: it answers with a text, which the scorer is given as the model's last message. So tasks whose
scorer looks into a sandbox or asks a model are refused when their data is prepared (tasks/inspect/make_data.py).
"""

import json
from importlib import metadata
from pathlib import Path

from sia_runner.config import task as task_config
from sia_runner.config.task import InspectTaskConfig, TableTaskConfig
from sia_runner.records import Json
from sia_runner.tasks.protocol import TaskError, ViewKeys
from sia_runner.tasks.table import TableTask, check_modules


class InspectTask(TableTask):
    """A task of Inspect AI (see sia_runner.tasks.protocol.Task)."""

    def __init__(self, spec: InspectTaskConfig, split_seed: int, cache: Path) -> None:
        check_modules(spec.name, ["inspect_ai"])
        if spec.file and not Path(spec.file).expanduser().is_file():
            raise TaskError(f"task.file={spec.file}: no such file")
        if not spec.file and "/" not in spec.name:
            raise TaskError(f"task.name={spec.name}: allowed: package/task, or with task.file the name of its function")
        super().__init__(_table_spec(spec), split_seed, cache)

    def _verifier_data(self, keys: ViewKeys) -> dict[str, str]:
        """Return id in the view -> where the verifier finds the sample; harnesses and proposers see none of it."""
        return {name: json.dumps({"folder": str(self._source), "sample": int(unit) - 1}) for name, unit in keys.items()}


def _table_spec(spec: InspectTaskConfig) -> TableTaskConfig:
    arguments: Json = {"task": spec.name, "args": json.dumps(spec.args, sort_keys=True), "versions": _versions(spec)}
    if spec.score:
        arguments["score"] = spec.score
    return TableTaskConfig(
        name=f"inspect_{spec.name.replace('/', '_')}",
        _target_="sia_runner.tasks.table.TableTask",
        folder="inspect",
        data=task_config.DataSource(
            script="make_data.py",
            modules=["loading.py"],
            arguments=arguments,
            local=spec.file,
            labelled="labelled.csv",
            description_file="about.md",
            licence="that of the task",
        ),
        columns=task_config.TableColumns(answer="answer"),
        metric=spec.metric,
        **{name: getattr(spec, name) for name in ("splits", "gate", "limits", "needs_model", "tiny")},
    )


def _versions(spec: InspectTaskConfig) -> str:
    """Return the versions of Inspect and of the task's package: another one may bring other samples."""
    packages = ["inspect_ai", *([] if spec.file else [spec.name.partition("/")[0]])]
    versions: list[str] = []
    for package in packages:
        try:
            versions.append(f"{package}=={metadata.version(package)}")
        except metadata.PackageNotFoundError:  # a module need not have the distribution's name
            versions.append(package)
    return " ".join(versions)
