"""The command `adapters` lists, shows, checks, merges and exports the adapters that runs have trained."""

import json
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sia_runner.errors import TrainingError
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations, test_result_of
from sia_runner.store.run_directory import RunDir, RunDirectoryError, tree_sha256, write_json
from sia_runner.system import cache_dir
from sia_runner.training import adapters
from sia_runner.training.adapters import AdapterOrigin
from sia_runner.wire.adapter_files import adapter_sha256


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
    from sia_runner.policy.engine import TINY_BASE

    tiny = name is None and origin.base_id == TINY_BASE
    folder = _cached_tiny(origin.base_sha256) if tiny else base_folder(name or origin.base_id)
    sha256 = weights_sha256(folder)
    if sha256 != origin.base_sha256:
        raise TrainingError(
            f"the adapter is for {origin.base_id} (sha256 {origin.base_sha256[:12]}), "
            f"not for {name or folder} (sha256 {sha256[:12]})"
        )
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


def list_adapters(options: Namespace) -> None:
    """Print one line per generation that trained an adapter; an inherited adapter is listed under its ancestor only."""
    run = RunDir(options.run)
    journal = finished_generations(JournalReader(run.journal))
    paths = {generation.n: run.generation(generation.n).adapter for generation in journal}
    own = [n for n, path in paths.items() if path.is_dir() and not path.is_symlink()]
    rows = [_row(run, generation) for generation in journal if generation.n in own]
    if not rows:
        raise RunDirectoryError(f"{run.path} has no adapters: no generation trained the weights")
    widths = [max(len(row[at]) for row in [_COLUMNS, *rows]) for at in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    best = run.adapter_of(find_incumbent(journal))
    print(f"best: {best.relative_to(run.path) if best else 'the base alone'}")


def show_adapter(options: Namespace) -> None:
    """Print the origin, hash and size of an adapter as JSON."""
    path = _adapter_folder(options.adapter)
    origin = adapters.read_adapter_origin(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(json.dumps(asdict(origin) | {"sha256": adapter_sha256(path), "bytes": size}, indent=1))


def check_adapter(options: Namespace) -> None:
    """Load an adapter onto its base. Raises TrainingError."""
    path = _adapter_folder(options.adapter)
    base = load_base(adapters.read_adapter_origin(path), options.base)
    adapters.load_adapter(base.model, path, base.base_sha256, adapters.TRAINED_ADAPTER)
    print(f"{path} loads onto {base.base_id} (sha256 {base.base_sha256[:12]})")


def merge_adapter(options: Namespace) -> None:
    """Write base and adapter as one plain transformers folder."""
    path = _adapter_folder(options.adapter)
    origin = adapters.read_adapter_origin(path)
    with _new_folder(options.out) as folder:
        base: Any = load_base(origin, options.base)  # it answers no request while it is merged
        adapters.export_merged_model(base, path, folder)
    print(f"{origin.base_id} with {path} merged into {options.out}")


def export_adapter(options: Namespace) -> None:
    """Copy the best candidate's adapter with its origin and scores.

    Raises RunError where the best candidate has no adapter, or its hash is not that of the journal.
    """
    run = RunDir(options.run)
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
    with _new_folder(options.out) as folder:
        shutil.copytree(path, folder)
        write_json(
            folder / "provenance.json", {"run": run.path.name, "generation": n, **scores, "journal_head": journal.head}
        )
    print(
        f"adapter of generation {n} exported to {options.out}; its base: {adapters.read_adapter_origin(path).base_id}"
    )


def _row(run: RunDir, generation: GenerationRecord) -> tuple[str, ...]:
    path = run.generation(generation.n).adapter
    origin = adapters.read_adapter_origin(path)
    figures = (str(origin.steps), _figure(origin.reward), _figure(origin.kl))
    base = (origin.base_id, origin.base_sha256[:12])
    return (str(generation.n), generation.status, origin.algorithm, *figures, *base, adapter_sha256(path)[:12])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _adapter_folder(folder: Path) -> Path:
    """Return the folder of an adapter; a generation's folder stands for its adapter."""
    return folder / "adapter" if (folder / "adapter").is_dir() else folder


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` once it is complete."""
    if out.exists():
        raise RunDirectoryError(f"{out} exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        yield Path(temporary) / out.name
        (Path(temporary) / out.name).rename(out)


def main(options: Namespace) -> int:
    """Run one subcommand; return the exit code."""
    work = {"list": list_adapters, "show": show_adapter, "check": check_adapter}
    work |= {"merge": merge_adapter, "export": export_adapter}
    try:
        work[options.command](options)
    except TrainingError as error:
        raise RunDirectoryError(str(error)) from error
    return 0
