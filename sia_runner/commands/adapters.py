"""The adapters that runs have trained.

usage: python -m sia_runner adapters RUN_DIR                 list: generation, status, steps, reward, KL, base, hashes
       python -m sia_runner adapters show ADAPTER            where one comes from; ADAPTER is a folder, as gen_2/adapter
       python -m sia_runner adapters check ADAPTER [--base BASE]       load it onto its base, or onto BASE
       python -m sia_runner adapters merge ADAPTER OUT [--base BASE]   base and adapter as one plain transformers folder
       python -m sia_runner adapters export RUN_DIR OUT      the best one as a PEFT folder, with its origin

BASE is a folder or a hub id; without it, the base that the adapter names. An adapter is refused on any other base than
its own (exit code 2). OUT must not exist."""

import argparse
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sia_runner.config.refusals import print_refusals
from sia_runner.errors import TrainingError
from sia_runner.store.journal import (
    FinishedGeneration,
    JournalReader,
    find_incumbent,
    finished_generations,
    test_result_of,
)
from sia_runner.store.run_directory import RunDir, RunDirectoryError, tree_sha256, write_json
from sia_runner.system import cache_dir
from sia_runner.training import adapters
from sia_runner.training.adapters import AdapterOrigin
from sia_runner.wire.adapter_files import adapter_sha256

_TINY = "tiny"


@dataclass(slots=True)
class LoadedBase:
    """A loaded base model: what loading and merging need of training.protocol.Policy."""

    model: Any
    tokenizer: Any
    base_id: str
    base_sha256: str


def load_base(origin: AdapterOrigin, name: str | None = None) -> LoadedBase:
    """Load the base of an adapter, or `name` (a folder or hub id) in its place.

    Another base is refused by its hash before any weights are read. Raises TrainingError, PolicyError.
    """
    from sia_runner.policy.base_model import base_folder, load_base, weights_sha256

    folder = (
        _cached_tiny(origin.base_sha256)
        if name is None and origin.base_id == _TINY
        else base_folder(name or origin.base_id)
    )
    sha256 = weights_sha256(folder)
    if sha256 != origin.base_sha256:
        raise TrainingError(
            f"the adapter is for {origin.base_id} (sha256 {origin.base_sha256[:12]}), "
            f"not for {name or folder} (sha256 {sha256[:12]})"
        )
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)  # PEFT's
    loaded = load_base(str(folder), "cpu", _saved_dtype(folder))
    return LoadedBase(loaded.model, loaded.tokenizer, name or origin.base_id, sha256)


def _cached_tiny(sha256: str) -> Path:
    """Return the cached folder of a base=tiny by the hash of its weights; the folder's name does not tell it."""
    from sia_runner.policy.base_model import weights_sha256

    policies = cache_dir() / "policies"
    for folder in sorted(policies.glob("*/")):
        if (folder / "warm.json").is_file() and weights_sha256(folder) == sha256:
            return folder
    raise TrainingError(f"base=tiny with sha256 {sha256[:12]} is not in {policies}; give its folder: --base FOLDER")


def _saved_dtype(folder: Path) -> str:
    """Return the dtype of the saved weights, so that merging does not double a large model."""
    from transformers import AutoConfig

    saved = getattr(AutoConfig.from_pretrained(folder), "dtype", None)
    return str(saved).removeprefix("torch.") if saved is not None else "float32"


_COLUMNS = ("gen", "status", "algorithm", "steps", "reward", "KL", "base", "base sha256", "adapter sha256")


def list_adapters(args: argparse.Namespace) -> None:
    """Print one line per generation that trained an adapter; an inherited adapter is listed under its ancestor only."""
    run = _run_dir(args.run)
    journal = finished_generations(JournalReader(run.journal))
    rows = [_row(run, generation) for generation in journal if _has_own_adapter(run, generation)]
    if not rows:
        raise RunDirectoryError(f"{run.path} has no adapters: no generation trained the weights")
    widths = [max(len(row[at]) for row in [_COLUMNS, *rows]) for at in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    best = run.adapter_of(find_incumbent(journal))
    print(f"best: {best.relative_to(run.path) if best else 'the base alone'}")


def show_adapter(args: argparse.Namespace) -> None:
    """Print the origin, hash and size of an adapter as JSON."""
    path = _adapter_folder(args.adapter)
    origin = adapters.read_adapter_origin(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(json.dumps(asdict(origin) | {"sha256": adapter_sha256(path), "bytes": size}, indent=1))


def check_adapter(args: argparse.Namespace) -> None:
    """Load an adapter onto its base. Raises TrainingError."""
    path = _adapter_folder(args.adapter)
    base = load_base(adapters.read_adapter_origin(path), args.base)
    adapters.load_adapter(base.model, path, base.base_sha256, adapters.TRAINED_ADAPTER)
    print(f"{path} loads onto {base.base_id} (sha256 {base.base_sha256[:12]})")


def merge_adapter(args: argparse.Namespace) -> None:
    """Write base and adapter as one plain transformers folder."""
    path = _adapter_folder(args.adapter)
    origin = adapters.read_adapter_origin(path)
    with _new_folder(args.out) as folder:
        base: Any = load_base(origin, args.base)  # it answers no request while it is merged
        adapters.export_merged_model(base, path, folder)
    print(f"{origin.base_id} with {path} merged into {args.out}")


def export_adapter(args: argparse.Namespace) -> None:
    """Copy the best candidate's adapter with its origin and scores.

    Raises RunError where the best candidate has no adapter, or its hash is not that of the journal.
    """
    run = _run_dir(args.run)
    journal = JournalReader(run.journal)
    generations = finished_generations(journal)
    n = find_incumbent(generations)
    if n is None:
        raise RunDirectoryError(f"{run.path} has no accepted candidate to export")
    path = run.adapter_of(n)
    if path is None:
        raise RunDirectoryError(
            f"{run.path}: the best candidate, generation {n}, runs on the base alone: there is no adapter"
        )
    best = next(generation for generation in generations if generation.n == n)
    if tree_sha256(path) != best.steps["build"]["adapter_sha256"]:
        raise RunDirectoryError(f"{path} was changed since it was trained")
    tested = test_result_of(journal, n)
    scores = {"val": best.steps["verify"]["val"], "test": tested["score"] if tested else None}
    with _new_folder(args.out) as folder:
        shutil.copytree(path, folder)
        write_json(
            folder / "provenance.json", {"run": run.path.name, "generation": n, **scores, "journal_head": journal.head}
        )
    print(f"adapter of generation {n} exported to {args.out}; its base: {adapters.read_adapter_origin(path).base_id}")


def _has_own_adapter(run: RunDir, generation: FinishedGeneration) -> bool:
    adapter = run.generation(generation.n).adapter
    return adapter.is_dir() and not adapter.is_symlink()


def _row(run: RunDir, generation: FinishedGeneration) -> tuple[str, ...]:
    path = run.generation(generation.n).adapter
    origin = adapters.read_adapter_origin(path)
    return (
        str(generation.n),
        generation.status,
        origin.algorithm,
        str(origin.steps),
        _figure(origin.reward),
        _figure(origin.kl),
        origin.base_id,
        origin.base_sha256[:12],
        adapter_sha256(path)[:12],
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _run_dir(folder: Path) -> RunDir:
    return RunDir(folder.expanduser().resolve())


def _adapter_folder(folder: Path) -> Path:
    """Return the folder of an adapter; a generation's folder stands for its adapter."""
    path = folder.expanduser().resolve()
    return path / "adapter" if (path / "adapter").is_dir() else path


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` once it is complete."""
    if out.exists():
        raise RunDirectoryError(f"{out} exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        yield Path(temporary) / out.name
        (Path(temporary) / out.name).rename(out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sia_runner adapters")
    commands = parser.add_subparsers(required=True)
    takes: dict[str, tuple[Callable[[Any], None], tuple[str, ...]]] = {
        "list": (list_adapters, ("run",)),
        "show": (show_adapter, ("adapter",)),
        "check": (check_adapter, ("adapter", "--base")),
        "merge": (merge_adapter, ("adapter", "out", "--base")),
        "export": (export_adapter, ("run", "out")),
    }
    for name, (work, arguments) in takes.items():
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        for argument in arguments:
            command.add_argument(argument, type=str if argument == "--base" else Path)
    return parser


def main(args: Sequence[str]) -> int:
    """Run one subcommand; return the exit code."""
    if not args or "-h" in args or "--help" in args:
        print(__doc__)
        return 0 if args else 2
    commands = ("list", "show", "check", "merge", "export")
    namespace = _parser().parse_args(args if args[0] in commands else ["list", *args])
    with print_refusals() as outcome:
        try:
            namespace.work(namespace)
        except TrainingError as error:
            raise RunDirectoryError(str(error)) from error
        outcome.code = 0
    return outcome.code
