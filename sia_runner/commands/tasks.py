"""The command `tasks` lists tasks, makes one of your own, and checks whether one holds."""

import shlex
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from sia_runner.config.refusals import EXIT_REFUSED, print_refusals
from sia_runner.system import bundled_folder, cache_dir
from sia_runner.tasks.protocol import TaskError


def main(options: Namespace) -> int:
    """Run `list`, `new` or `check`; return the exit code."""
    return {"list": _list, "new": _new, "check": _check}[options.command](options)


def _list(options: Namespace) -> int:
    import yaml
    from rich.table import Table

    from sia_runner.sweep.table import fold, print_tables

    columns = fold("name", "metric", "judged by", "needs", "what it is")
    table = Table(*columns, title="tasks: python -m sia_runner task=NAME", title_justify="left")
    for folder in (bundled_folder("conf"), *map(Path, options.config_dir)):
        for path in sorted((folder / "task").glob("[!_]*.yaml")):
            text = path.read_text(encoding="utf-8")
            declared = yaml.safe_load(text)
            table.add_row(path.stem, *_columns_of(declared), text.partition("\n")[0].lstrip("# "))
    print_tables(table, width=160)
    return 0


def _columns_of(declared: dict[str, Any]) -> tuple[str, str, str]:
    needs = ", ".join([*(["a model"] if declared.get("needs_model") else []), *declared.get("requires", [])])
    if "competition" in declared:
        return "the competition's", "its metric", needs
    if declared["_target_"].endswith("InspectTask"):
        return declared["metric_name"], "the task's scorer", needs
    if declared["_target_"].endswith("HarborTask"):
        return "reward", "its tests", needs
    metric = declared.get("metric", {})
    own = declared["_target_"].endswith("SiaFolder")
    return metric.get("name", "?"), "its evaluate.py" if own else metric.get("verifier", "exact_match"), needs


def _new(options: Namespace) -> int:
    if bool(options.csv) != bool(options.answer) or (options.id and not options.csv):
        raise TaskError("--csv FILE and --answer COLUMN come together; --id COLUMN only with them")
    from sia_runner.tasks.new_task import CsvSource, write_task

    source = CsvSource(options.csv, options.id, options.answer, options.licence) if options.csv else None
    folder, lines = write_task(options.name, options.dir, source, cache_dir())
    here = Path.cwd()
    typed = folder.relative_to(here) if folder.is_relative_to(here) else folder
    folder_text, conf_text = shlex.quote(str(typed)), shlex.quote(str(typed / "conf"))
    print(*lines, f"task {options.name} is in {folder}", sep="\n")
    print(f"run it:   python -m sia_runner --config-dir {conf_text} task={options.name} max_gen=3")
    print(f"check it: python -m sia_runner tasks check {folder_text}")
    return 0


def _check(options: Namespace) -> int:
    from sia_runner.commands.task_review import review_task
    from sia_runner.config.composition import compose_overrides
    from sia_runner.config.experiment import check_task

    plain = compose_overrides([*_task_overrides(options.name), *options.overrides])
    if plain is None:
        return EXIT_REFUSED
    with print_refusals(plain) as outcome, tempfile.TemporaryDirectory(prefix="sia-tasks-check-") as folder:
        spec = check_task(plain)
        review = review_task(plain, spec, Path(folder))
        count = len(review.findings)
        print(f"task {spec.name}: {f'{count} finding' + 's' * (count > 1) if count else 'nothing found'}")
        print(*review.lines(), sep="\n")
        outcome.code = 1 if count else 0
    return outcome.code


def _task_overrides(name: str) -> list[str]:
    """Return the overrides that compose the task; a folder that `new` wrote, or one like it, has its own YAML."""
    from sia_runner.config.composition import quote_text

    folder = Path(name)
    if not folder.is_dir():
        if "/" in name:
            raise TaskError(f"{name}: no such folder")
        return [f"task={name}"]
    if (folder / "data" / "public" / "task.md").is_file():
        raise TaskError(
            f"{name} is a sia-agent folder: its evaluate.py alone says what is right. Make it a task of this runner "
            "(python -m sia_runner tasks new NAME --csv FILE --answer COLUMN) to have it checked"
        )
    declared = sorted((folder / "conf" / "task").glob("*.yaml"))
    if len(declared) != 1:
        raise TaskError(f"{name}: expected one file in {name}/conf/task/, found {len(declared)}")
    task_dir = quote_text(str(folder.resolve()))
    return [f"--config-dir={folder / 'conf'}", f"task={declared[0].stem}", f"task.dir={task_dir}"]
