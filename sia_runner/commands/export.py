"""The command `export` writes the best harness as a folder that runs without us, or trajectories for other tools."""

import ast
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path

from sia_runner.config.experiment import Experiment
from sia_runner.errors import RunnerError
from sia_runner.experiment.context import Components
from sia_runner.experiment.runner import existing_run, stored_config
from sia_runner.experiment.summary import format_score
from sia_runner.records import Json, Score
from sia_runner.results.conversations import HarnessRunExport, write_atif
from sia_runner.stage_results import TestResult
from sia_runner.store.generations import NO_MODEL, GenerationRecord, earned_mode
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations, test_result_of
from sia_runner.store.run_directory import (
    RunDir,
    RunDirectoryError,
    read_outcomes,
    sha256_of,
    tree_sha256,
    write_json,
    write_text,
)
from sia_runner.text import one_line

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
    """Write what the options name to a new folder; return the exit code."""
    run = existing_run(options.run)
    kind = "inspect" if options.inspect else "atif" if options.atif else "best"
    out = options.out or Path(f"{options.run.name}-{kind}")
    return _export_harness(run, out) if kind == "best" else _export_trajectories(run, out, kind)


def _export_trajectories(run: RunDir, out: Path, kind: str) -> int:
    """Write every harness run that was verified, with its model calls."""
    if kind == "inspect":
        try:
            import inspect_ai  # noqa: F401 # pyright: ignore[reportMissingImports]
        except ImportError:
            raise RunDirectoryError("--inspect needs inspect_ai: pip install 'sia-runner[inspect]'") from None
    exports, note = harness_run_exports(run)
    if not exports:
        raise RunDirectoryError(f"{run.path}: no harness run was verified, so there is nothing to export")
    with new_folder(out) as folder:
        folder.mkdir()
        for export in exports:
            if kind == "atif":
                count, where = write_atif(export, folder / export.name), f"{out / export.name}"
            else:
                from sia_runner.results.inspect_logs import write_inspect_log

                path, count = write_inspect_log(export, folder)
                where = str(out / path.name)
            what = "samples" if kind == "inspect" else "conversations"
            print(f"{export.folder}: {count:,} {what}: {where}")
    print(f"{note}val and test questions are among them: show them to no proposer")
    if kind == "inspect":
        print(f"look at them: inspect view --log-dir {out}")
    return 0


def harness_run_exports(run: RunDir) -> tuple[list[HarnessRunExport], str]:
    """Return the harness runs that were verified, and a line where their splits are not known.

    Raises RunDirectoryError where scores.json is not what the verifier wrote.
    """
    config, journal = stored_config(run), JournalReader(run.journal)
    task = Components(config).task
    splits, note = dict[str, str](), ""
    try:
        task.prepare(lambda _: None)
        splits = {unit: name for name in ("dev", "val", "test") for unit in task.splits()[name]}
    except (RunnerError, OSError) as error:  # the data is not on this machine
        note = f"which questions are dev and which val is not known: {error}\n"
    times = {str(entry.get("step")): str(entry.get("at")) for entry in journal.of("start")}
    generations = {generation.n: generation for generation in finished_generations(journal)}

    def export(folder: str, n: int, split: str, score: Score | None, sha256: str, failure: str, step: str):
        scores = run.path / folder / "scores.json"
        if not scores.is_file() or sha256_of(scores) != sha256:
            raise RunDirectoryError(f"{scores} was changed since it was written; nothing was exported")
        generation, gold = generations.get(n), dict[str, str]()
        if split == "val" and splits:
            dev = [outcome for outcome in read_outcomes(scores) if splits.get(outcome.unit) == "dev"]
            gold = {o.unit: str(content["gold"]) for o in dev for content in task.failures([o], 1)}
        fate = one_line(f"{generation.title}: {generation.status}" if generation else f"generation {n}")
        harness = {"run": run.path.name, "generation": n, "candidate": fate}
        if generation and (digest := generation.steps.get("build", {}).get("sha256")):
            harness["harness_sha256"] = digest
        began = datetime.fromisoformat(times[step])
        return HarnessRunExport(
            run.path, folder, task.name, task.metric, score, split, fate, failure, splits, gold, harness, began
        )

    exports = [
        export(f"gen_{n}", n, "val", generation.val, verified["scores_sha256"], generation.reason, f"gen_{n}/run")
        for n, generation in generations.items()
        if (verified := generation.steps.get("verify")) is not None
    ]
    for step, entry in journal.done():
        if step.startswith("test/"):
            result = TestResult.from_json(entry["result"])
            folder = f"test/gen_{result.generation}"
            failure = result.run.failure
            exports.append(export(folder, result.generation, "test", result.score, result.scores_sha256, failure, step))
    return exports, note


def _export_harness(run: RunDir, out: Path) -> int:
    """Write the incumbent's harness; return the exit code."""
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
