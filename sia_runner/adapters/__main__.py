"""The adapters that runs have trained.

usage: python -m sia_runner.adapters RUN_DIR                 list: generation, status, steps, reward, KL, base, hashes
       python -m sia_runner.adapters show ADAPTER            where one comes from; ADAPTER is a folder, as gen_2/adapter
       python -m sia_runner.adapters check ADAPTER [--base BASE]       load it onto its base, or onto BASE
       python -m sia_runner.adapters merge ADAPTER OUT [--base BASE]   base and adapter as one plain transformers folder
       python -m sia_runner.adapters export RUN_DIR OUT      the best one as a PEFT folder, with its origin

BASE is a folder or a hub id; without it, the base that the adapter names. An adapter is refused on any other base than
its own (exit code 2). OUT must not exist.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sia_runner.compose.refusals import refusals
from sia_runner.ground.history import Finished, finished, incumbent, test_of
from sia_runner.ground.journal import Record
from sia_runner.rundir import RunDir, RunError, tree_sha256, write_json
from sia_runner.training import adapters
from sia_runner.training.protocol import TrainingError

_COLUMNS = ("gen", "status", "algorithm", "steps", "reward", "KL", "base", "base sha256", "adapter sha256")


def show_all(given: argparse.Namespace) -> None:
    """One line per generation that trained an adapter; an inherited one is its ancestor's."""
    run = _run(given.run)
    journal = finished(Record(run.journal))
    rows = [_row(run, generation) for generation in journal if _trained(run, generation)]
    if not rows:
        raise RunError(f"{run.path} has no adapters: no generation trained the weights")
    widths = [max(len(row[at]) for row in [_COLUMNS, *rows]) for at in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    best = run.adapter_of(incumbent(journal))
    print(f"best: {best.relative_to(run.path) if best else 'the base alone'}")


def show(given: argparse.Namespace) -> None:
    path = _adapter(given.adapter)
    origin = adapters.read_origin(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(json.dumps(asdict(origin) | {"sha256": adapters.version(path), "bytes": size}, indent=1))


def check(given: argparse.Namespace) -> None:
    from sia_runner.adapters import bases

    path = _adapter(given.adapter)
    base = bases.of(adapters.read_origin(path), given.base)
    adapters.load(base.model, path, base.base_sha256, adapters.NAME)
    print(f"{path} loads onto {base.base_id} (sha256 {base.base_sha256[:12]})")


def merge(given: argparse.Namespace) -> None:
    from sia_runner.adapters import bases

    path = _adapter(given.adapter)
    origin = adapters.read_origin(path)
    with _written(given.out) as folder:
        base: Any = bases.of(origin, given.base)  # it answers no request while it is merged
        adapters.export(base, path, folder)
    print(f"{origin.base_id} with {path} merged into {given.out}")


def export(given: argparse.Namespace) -> None:
    """Raises RunError where the best candidate has no adapter, or not the one of the journal."""
    run = _run(given.run)
    journal = Record(run.journal)
    generations = finished(journal)
    n = incumbent(generations)
    if n is None:
        raise RunError(f"{run.path} has no accepted candidate to export")
    path = run.adapter_of(n)
    if path is None:
        raise RunError(f"{run.path}: the best candidate, generation {n}, runs on the base alone: there is no adapter")
    best = next(generation for generation in generations if generation.n == n)
    if tree_sha256(path) != best.steps["build"]["adapter_sha256"]:
        raise RunError(f"{path} was changed since it was trained")
    tested = test_of(journal, n)
    scores = {"val": best.steps["verify"]["val"], "test": tested["score"] if tested else None}
    with _written(given.out) as folder:
        shutil.copytree(path, folder)
        write_json(
            folder / "provenance.json", {"run": run.path.name, "generation": n, **scores, "journal_head": journal.head}
        )
    print(f"adapter of generation {n} exported to {given.out}; its base: {adapters.read_origin(path).base_id}")


def _trained(run: RunDir, generation: Finished) -> bool:
    here = run.generation(generation.n).adapter
    return here.is_dir() and not here.is_symlink()


def _row(run: RunDir, generation: Finished) -> tuple[str, ...]:
    path = run.generation(generation.n).adapter
    origin = adapters.read_origin(path)
    return (
        str(generation.n),
        generation.status,
        origin.algorithm,
        str(origin.steps),
        _figure(origin.reward),
        _figure(origin.kl),
        origin.base_id,
        origin.base_sha256[:12],
        adapters.version(path)[:12],
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _run(folder: Path) -> RunDir:
    return RunDir(folder.expanduser().resolve())


def _adapter(folder: Path) -> Path:
    """A generation's folder will do for its adapter."""
    path = folder.expanduser().resolve()
    return path / "adapter" if (path / "adapter").is_dir() else path


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """A folder to write that becomes `out` when all is in it."""
    if out.exists():
        raise RunError(f"{out} exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        yield Path(place) / out.name
        (Path(place) / out.name).rename(out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sia_runner.adapters")
    commands = parser.add_subparsers(required=True)
    takes: dict[str, tuple[Callable[[Any], None], tuple[str, ...]]] = {
        "list": (show_all, ("run",)),
        "show": (show, ("adapter",)),
        "check": (check, ("adapter", "--base")),
        "merge": (merge, ("adapter", "out", "--base")),
        "export": (export, ("run", "out")),
    }
    for name, (work, arguments) in takes.items():
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        for argument in arguments:
            command.add_argument(argument, type=str if argument == "--base" else Path)
    return parser


def main(args: list[str]) -> int:
    if not args or "-h" in args or "--help" in args:
        print(__doc__)
        return 0 if args else 2
    known = ("list", "show", "check", "merge", "export")
    given = _parser().parse_args(args if args[0] in known else ["list", *args])
    with refusals() as outcome:
        try:
            given.work(given)
        except TrainingError as error:
            raise RunError(str(error)) from error
        outcome.code = 0
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
