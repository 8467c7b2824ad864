"""The command `export` writes the best harness as a folder that runs without us."""

import ast
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from sia_runner.config.experiment import Experiment
from sia_runner.errors import RunnerError
from sia_runner.experiment.context import Components
from sia_runner.experiment.runner import existing_run, stored_config
from sia_runner.experiment.summary import format_score
from sia_runner.records import Json
from sia_runner.store.generations import NO_MODEL, GenerationRecord, earned_mode
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations, test_result_of
from sia_runner.store.run_directory import RunDir, RunDirectoryError, tree_sha256, write_json, write_text

_README = """\
# {task}: harness of generation {n}

Exported from run `{run}`. It needs nothing of SIA Runner:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    mkdir -p OUT && venv/bin/python {entry} --dataset_dir {data} --working_dir OUT

{files} The answers are written to `OUT/{submission}`.

- val: {val}
- test: {test}

## The task

{description}
"""


def best_candidate(run: RunDir) -> tuple[GenerationRecord, Json, str]:
    """Return the incumbent, its scores as JSON, and the journal's head. Raises RunError where none was accepted."""
    journal = JournalReader(run.journal)
    generations = finished_generations(journal)
    n = find_incumbent(generations)
    if n is None:
        raise RunDirectoryError(f"{run.path} has no accepted candidate to export")
    best, tested = next(generation for generation in generations if generation.n == n), test_result_of(journal, n)
    scores = {"val": best.val.to_json() if best.val else None, "test": tested["score"] if tested else None}
    return best, scores, journal.head


@contextmanager
def new_folder(out: Path) -> Generator[Path]:
    """Yield a path for a folder that becomes `out` once it is complete. Raises RunError if `out` exists."""
    if out.exists():
        raise RunDirectoryError(f"{out} exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        yield Path(temporary) / out.name
        (Path(temporary) / out.name).rename(out)


def main(options: Namespace) -> int:
    """Write the incumbent's harness to a new folder; return the exit code."""
    run, out = existing_run(options.run), options.out or Path(f"{options.run.name}-best")
    config, (best, scores, head) = stored_config(run), best_candidate(run)
    harness = run.generation(best.n).harness
    with new_folder(out) as folder:
        shutil.copytree(harness, folder)
        if not (folder / "requirements.txt").exists():
            write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in pinned_requirements(harness)))
        text = _readme_text(config, run, best.n, scores, folder / "example") + _model_section(config, run, best.n)
        write_text(folder / "README.md", text)
        provenance = {"run": run.path.name, "generation": best.n, "harness_sha256": tree_sha256(harness), **scores}
        write_json(folder / "provenance.json", provenance | {"journal_head": head})
    print(f"generation {best.n} exported to {out}; see {out / 'README.md'}")
    return 0


def _readme_text(config: Experiment, run: RunDir, n: int, scores: Json, example: Path) -> str:
    """Write a small example of the data to `example`, and return the page that names its files."""
    task = Components(config).task
    try:
        task.prepare(lambda _: None)
        task.lay_out(task.rounds("gate")[0], example, "example")
        names = ", ".join(f"`{path.name}`" for path in sorted(example.iterdir()))
        files = f"`example/` has a few dev questions, under the task's licence. For data of your own: {names}."
    except (RunnerError, OSError) as error:  # the data is not on this machine
        shutil.rmtree(example, ignore_errors=True)
        files = f"`DATA` holds the files that the task describes below. There is no example: {error}."
    intervals = {name: format_score(score) if score else "not measured" for name, score in scores.items()}
    return _README.format(
        task=task.name,
        n=n,
        run=run.path.name,
        entry=task.entry,
        submission=getattr(config.task, "submission", "the file it names"),
        description=task.description,
        data="example" if example.is_dir() else "DATA",
        files=files,
        **intervals,
    )


def _model_section(config: Experiment, run: RunDir, n: int) -> str:
    """Describe the model that the harness calls; empty where it calls none."""
    generations = finished_generations(JournalReader(run.journal))
    if not config.calls_model or earned_mode(config.trainer.mode, generations, run.path) == NO_MODEL:
        return ""
    text = "\n## Its model\n\nIt calls a model: set `OPENAI_BASE_URL`, `OPENAI_API_KEY` and `SIA_MODEL`"
    if not config.has_policy:
        return f"{text}.\n"
    text += f" for a server of the one it was\nmeasured with: base `{config.target_agent.policy.base}`"
    if run.adapter_of(n) is None:
        return f"{text}, without an adapter.\n"
    return (
        f"{text} and the adapter of this run. Write that with\n`python -m sia_runner adapters export {run.path} DIR` "
        "(a PEFT folder), or merged into the base with\n"
        f"`python -m sia_runner adapters merge {run.path}/gen_{n} DIR`.\n"
    )


def pinned_requirements(harness: Path) -> list[str]:
    """Return the distributions that the harness imports, pinned to the versions it was measured with."""
    imported: set[str] = set()
    for path in harness.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    distributions_of = metadata.packages_distributions()
    names = (imported & distributions_of.keys()) - sys.stdlib_module_names
    distributions = {distributions_of[name][0] for name in names}
    return sorted(f"{name}=={metadata.version(name)}" for name in distributions)
