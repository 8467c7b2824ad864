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

from sia_runner.adapters.bases import load_base
from sia_runner.compose.refusals import refusals
from sia_runner.ground.history import Finished, finished, incumbent, test_of
from sia_runner.ground.journal import Record
from sia_runner.rundir import RunDir, RunError, tree_sha256, write_json
from sia_runner.training import adapters
from sia_runner.training.protocol import TrainingError

_COLUMNS = ("gen", "status", "algorithm", "steps", "reward", "KL", "base", "base sha256", "adapter sha256")


def show_all(args: argparse.Namespace) -> None:
    """Print one line per generation that trained an adapter; an inherited adapter is listed under its ancestor only."""
    run = _run(args.run)
    journal = finished(Record(run.journal))
    rows = [_row(run, generation) for generation in journal if _has_own_adapter(run, generation)]
    if not rows:
        raise RunError(f"{run.path} has no adapters: no generation trained the weights")
    widths = [max(len(row[at]) for row in [_COLUMNS, *rows]) for at in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    best = run.adapter_of(incumbent(journal))
    print(f"best: {best.relative_to(run.path) if best else 'the base alone'}")


def show(args: argparse.Namespace) -> None:
    """Print the origin, hash and size of an adapter as JSON."""
    path = _adapter(args.adapter)
    origin = adapters.read_origin(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(json.dumps(asdict(origin) | {"sha256": adapters.version(path), "bytes": size}, indent=1))


def check(args: argparse.Namespace) -> None:
    """Load an adapter onto its base. Raises TrainingError."""
    path = _adapter(args.adapter)
    base = load_base(adapters.read_origin(path), args.base)
    adapters.load(base.model, path, base.base_sha256, adapters.NAME)
    print(f"{path} loads onto {base.base_id} (sha256 {base.base_sha256[:12]})")


def merge(args: argparse.Namespace) -> None:
    """Write base and adapter as one plain transformers folder."""
    path = _adapter(args.adapter)
    origin = adapters.read_origin(path)
    with _new_folder(args.out) as folder:
        base: Any = load_base(origin, args.base)  # it answers no request while it is merged
        adapters.export(base, path, folder)
    print(f"{origin.base_id} with {path} merged into {args.out}")


def export(args: argparse.Namespace) -> None:
    """Copy the best candidate's adapter with its origin and scores.

    Raises RunError where the best candidate has no adapter, or its hash is not that of the journal.
    """
    run = _run(args.run)
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
    with _new_folder(args.out) as folder:
        shutil.copytree(path, folder)
        write_json(
            folder / "provenance.json", {"run": run.path.name, "generation": n, **scores, "journal_head": journal.head}
        )
    print(f"adapter of generation {n} exported to {args.out}; its base: {adapters.read_origin(path).base_id}")


def _has_own_adapter(run: RunDir, generation: Finished) -> bool:
    adapter = run.generation(generation.n).adapter
    return adapter.is_dir() and not adapter.is_symlink()


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
    """Return the folder of an adapter; a generation's folder stands for its adapter."""
    path = folder.expanduser().resolve()
    return path / "adapter" if (path / "adapter").is_dir() else path


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` once it is complete."""
    if out.exists():
        raise RunError(f"{out} exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        yield Path(temporary) / out.name
        (Path(temporary) / out.name).rename(out)


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
    """Run one subcommand; return the exit code."""
    if not args or "-h" in args or "--help" in args:
        print(__doc__)
        return 0 if args else 2
    commands = ("list", "show", "check", "merge", "export")
    namespace = _parser().parse_args(args if args[0] in commands else ["list", *args])
    with refusals() as outcome:
        try:
            namespace.work(namespace)
        except TrainingError as error:
            raise RunError(str(error)) from error
        outcome.code = 0
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
