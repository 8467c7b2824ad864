"""The command `adapters` lists, shows, checks, merges and exports the adapters that runs have trained."""

import json
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sia_runner.commands.export import best_candidate, new_folder
from sia_runner.errors import TrainingError
from sia_runner.policy import lora
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations
from sia_runner.store.run_directory import RunDir, RunDirectoryError, tree_sha256, write_json
from sia_runner.system import cache_dir
from sia_runner.wire.adapter_files import adapter_sha256, read_adapter_origin, why_not_this_base

_COLUMNS = ("gen", "status", "algorithm", "steps", "reward", "KL", "base", "base sha256", "adapter sha256")


def main(options: Namespace) -> int:
    """Run one subcommand; return the exit code."""
    work = {"list": _list, "show": _show, "check": _check, "merge": _merge, "export": _export}
    try:
        work[options.command](options)
    except TrainingError as error:
        raise RunDirectoryError(str(error)) from error
    return 0


def _load_base(path: Path, name: str | None, *, trust_base: bool) -> Any:
    """Load the base of an adapter, or `name` in its place: a LoadedModel."""
    from transformers import AutoConfig

    from sia_runner.policy.base_model import base_folder, load_base, weights_sha256
    from sia_runner.policy.engine import TINY_BASE

    origin = read_adapter_origin(path)
    tiny = name is None and origin.base_id == TINY_BASE
    folder = _cached_tiny(origin.base_sha256) if tiny else base_folder(name or origin.base_id)
    sha256 = weights_sha256(folder)
    base_id = name or origin.base_id
    if reason := why_not_this_base(asdict(origin), str(name or folder), sha256, trust_base=trust_base):
        raise TrainingError(f"the adapter {reason}")
    # another dtype than that of the saved weights could double a large model
    saved = getattr(AutoConfig.from_pretrained(folder), "dtype", None) or "float32"
    loaded = load_base(str(folder), "cpu", str(saved).removeprefix("torch."))
    names = {"base_id": base_id, "base_sha256": sha256, "trust_base": trust_base}
    return SimpleNamespace(model=loaded.model, tokenizer=loaded.tokenizer, **names)


def _cached_tiny(sha256: str) -> Path:
    """Return the cached folder of a base=tiny by the hash of its weights; the folder's name does not tell it."""
    from sia_runner.policy.base_model import weights_sha256

    policies = cache_dir() / "policies"
    for folder in sorted(policies.glob("*/")):
        if (folder / "warm.json").is_file() and weights_sha256(folder) == sha256:
            return folder
    raise TrainingError(f"base=tiny with sha256 {sha256[:12]} is not in {policies}; give its folder: --base FOLDER")


def _list(options: Namespace) -> None:
    """Print one line per generation that trained an adapter; an inherited adapter is listed under its ancestor only."""
    run = RunDir(options.run)
    journal = finished_generations(JournalReader(run.journal))
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for generation in journal:
        path = run.generation(generation.n).adapter
        if path.is_dir() and not path.is_symlink():
            origin = read_adapter_origin(path)
            figures = ("–" if value is None else f"{value:.3f}" for value in (origin.reward, origin.kl))
            base = (origin.base_id, origin.base_sha256[:12], adapter_sha256(path)[:12])
            rows.append((str(generation.n), generation.status, origin.algorithm, str(origin.steps), *figures, *base))
    if len(rows) == 1:
        raise RunDirectoryError(f"{run.path} has no adapters: no generation trained the weights")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    best = run.adapter_of(find_incumbent(journal))
    print(f"best: {best.relative_to(run.path) if best else 'the base alone'}")


def _show(options: Namespace) -> None:
    path = _adapter_folder(options.adapter)
    origin = read_adapter_origin(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(json.dumps(asdict(origin) | {"sha256": adapter_sha256(path), "bytes": size}, indent=1))


def _check(options: Namespace) -> None:
    path = _adapter_folder(options.adapter)
    base = _load_base(path, options.base, trust_base=options.trust_base)
    model = lora.load_adapter(base.model, path, base.base_sha256, lora.TRAINED_ADAPTER, trust_base=base.trust_base)
    print(f"{path} loads onto {base.base_id} (sha256 {base.base_sha256[:12]})")
    if proof := (read_adapter_origin(path).service or {}).get("proof"):
        applied = _gap_to_service(model, proof)
        with model.disable_adapter():
            without = _gap_to_service(model, proof)
        print(
            f"the service's logprobs of its proof: at most {applied:.2g} nats away, without the adapter {without:.2g}"
        )


def _gap_to_service(model: Any, proof: Sequence[Mapping[str, Any]]) -> float:
    """Return the greatest difference to the logprobs that a service recorded with its adapter, in nats."""
    import torch

    gaps: list[float] = []
    for row in proof:
        ids = torch.tensor([[*row["prompt"], *row["completion"]]])
        with torch.no_grad():
            logprob_tv = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1)
        logprob_t = logprob_tv.gather(1, ids[0, 1:, None])[-len(row["completion"]) :, 0]
        gaps.append(float((logprob_t - torch.tensor(row["logprobs"])).abs().max()))
    return max(gaps)


def _merge(options: Namespace) -> None:
    path = _adapter_folder(options.adapter)
    origin = read_adapter_origin(path)
    with new_folder(options.out) as folder:
        lora.export_merged_model(_load_base(path, options.base, trust_base=options.trust_base), path, folder)
    print(f"{origin.base_id} with {path} merged into {options.out}")


def _export(options: Namespace) -> None:
    run = RunDir(options.run)
    best, scores, head = best_candidate(run)
    path = run.adapter_of(best.n)
    if path is None:
        what = f"the best candidate, generation {best.n}, runs on the base alone: there is no adapter"
        raise RunDirectoryError(f"{run.path}: {what}")
    if tree_sha256(path) != best.steps["build"]["adapter_sha256"]:
        raise RunDirectoryError(f"{path} was changed since it was trained")
    with new_folder(options.out) as folder:
        shutil.copytree(path, folder)
        provenance = {"run": run.path.name, "generation": best.n, **scores, "journal_head": head}
        write_json(folder / "provenance.json", provenance)
    base_id = read_adapter_origin(path).base_id
    print(f"adapter of generation {best.n} exported to {options.out}; its base: {base_id}")


def _adapter_folder(folder: Path) -> Path:
    """Return the folder of an adapter; a generation's folder stands for its adapter."""
    return folder / "adapter" if (folder / "adapter").is_dir() else folder
