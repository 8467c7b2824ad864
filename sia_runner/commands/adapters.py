"""The command `adapters` lists, shows, checks, merges, exports and publishes the adapters that runs have trained."""

import json
import os
import re
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sia_runner.commands.export import best_candidate, new_folder
from sia_runner.errors import TrainingError
from sia_runner.policy import lora
from sia_runner.records import Json, Score
from sia_runner.results.index import read_config
from sia_runner.store.files import as_dict, load_json
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations
from sia_runner.store.run_directory import RunDir, RunDirectoryError, tree_sha256, write_json, write_text
from sia_runner.system import cache_dir
from sia_runner.text import first_line, one_line
from sia_runner.wire.adapter_files import (
    CONFIG_FILE,
    ORIGIN_FILE,
    AdapterOrigin,
    adapter_sha256,
    read_adapter_origin,
    why_not_this_base,
)

_COLUMNS = ("gen", "status", "algorithm", "steps", "reward", "KL", "base", "base sha256", "adapter sha256")


def main(options: Namespace) -> int:
    """Run one subcommand; return the exit code."""
    work = {"list": _list, "show": _show, "check": _check, "merge": _merge, "export": _export, "publish": _publish}
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
    with new_folder(options.out) as folder:
        provenance, origin = _copy_best(run, folder)
    print(f"adapter of generation {provenance['generation']} exported to {options.out}; its base: {origin.base_id}")


def _copy_best(run: RunDir, folder: Path) -> tuple[Json, AdapterOrigin]:
    """Copy the best candidate's adapter to `folder`, with provenance.json; return that and the adapter's origin.

    Raises RunDirectoryError where there is none, or where it was changed.
    """
    best, scores, head = best_candidate(run)
    path = run.adapter_of(best.n)
    if path is None:
        what = f"the best candidate, generation {best.n}, runs on the base alone: there is no adapter"
        raise RunDirectoryError(f"{run.path}: {what}")
    if tree_sha256(path) != best.steps["build"]["adapter_sha256"]:
        raise RunDirectoryError(f"{path} was changed since it was trained")
    origin = read_adapter_origin(path)
    shutil.copytree(path, folder)
    provenance = {"run": run.path.name, "generation": best.n, **scores, "journal_head": head}
    write_json(folder / "provenance.json", provenance)
    return provenance, origin


def _publish(options: Namespace) -> None:
    """Write the folder of a model repository with its card, and upload it unless it is a dry run."""
    try:
        from httpx import HTTPError  # which huggingface_hub raises
        from huggingface_hub import HfApi
    except ImportError:
        raise RunDirectoryError("adapters publish needs huggingface_hub: pip install 'sia-runner[hub]'") from None
    token = os.environ.get("HF_TOKEN", "").strip()
    if not options.dry_run and not token:
        raise RunDirectoryError("HF_TOKEN is not set: a token that may write; --dry-run DIR writes the folder only")
    run = RunDir(options.run)
    if options.dry_run:
        with new_folder(options.dry_run) as folder:
            _write_repository(run, folder, options)
        names = ", ".join(sorted(path.name for path in options.dry_run.iterdir()))
        print(f"{options.repo}: nothing was sent; {options.dry_run} has {names}")
        return
    with tempfile.TemporaryDirectory(prefix="sia-publish-") as temporary:
        folder = Path(temporary) / "repository"
        _write_repository(run, folder, options)
        try:
            api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
            api.create_repo(options.repo, private=not options.public, exist_ok=True)
            message = f"Adapter of generation {best_candidate(run)[0].n}"
            commit = api.upload_folder(repo_id=options.repo, folder_path=folder, commit_message=message)
        except (HTTPError, OSError, ValueError) as error:
            raise RunDirectoryError(f"{options.repo} was not published: {first_line(error)}") from error
    print(f"{options.repo} published, {'public' if options.public else 'private where it is new'}: {commit.commit_url}")


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def _write_repository(run: RunDir, folder: Path, options: Namespace) -> None:
    """Write the adapter without this machine's paths and a service's samples, and README.md as its model card."""
    provenance, origin = _copy_best(run, folder)
    base = options.base or origin.base_id
    if not _HUB_ID.fullmatch(base) or (options.base is None and Path(base).exists()):
        raise RunDirectoryError(f"the base {base} is no id of a model on a hub: name one, --base OWNER/NAME")
    service = {key: value for key, value in (origin.service or {}).items() if key != "proof"}
    published = asdict(origin) | {"base_id": base, "service": service or None}
    settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    write_json(folder / ORIGIN_FILE, published)
    write_json(folder / CONFIG_FILE, settings)
    write_text(folder / "README.md", _model_card(run, provenance, published, options))


_CARD = """
# {name}

A LoRA adapter of [{base}](https://huggingface.co/{base}), trained by SIA Runner on rollouts of a harness for the task
`{task}`. It answers as measured below inside that harness only; by itself it was not measured.

| | |
| --- | --- |
| algorithm | {algorithm}, {steps} steps, seed {seed} |
| mean reward at the last step | {reward} |
| KL to the base, nats per completion | {kl} |
| {metric} on val (which selected it) | {val} |
| {metric} on test (scored once) | {test} |
| {metric} of the first harness on test | {baseline} |
| licence of the task's data | {data_licence} |

Intervals are 95%. `provenance.json` has the run's name and the head of its journal, `sia_adapter.json` the hashes of
the base (`{base_sha256}`) and of the data that it was trained on.

## Use

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{repo}")
"""


def _model_card(run: RunDir, provenance: Json, origin: Json, options: Namespace) -> str:
    """Return the card: the metadata that the Hub reads, and what was measured. Scores are the journal's."""
    from huggingface_hub import EvalResult, ModelCardData

    config, summary = read_config(run.path), as_dict(load_json(run.path, "summary.json"))
    task, metric = as_dict(config.get("task")), as_dict(summary.get("metric"))
    name, measured = one_line(str(task.get("name", "not known"))), one_line(str(metric.get("name", "score")))
    val, test = (Score.parse(provenance.get(split)) for split in ("val", "test"))
    baseline = Score.parse(as_dict(summary.get("best")).get("baseline_test"))
    figures: dict[str, Any] = {"task_type": "text-generation", "dataset_type": name, "dataset_name": name}
    results = [
        EvalResult(**figures, dataset_split=split, metric_type=measured, metric_value=round(score.value, 6))
        for split, score in (("test", test), ("val", val))
        if score
    ]
    data = ModelCardData(
        base_model=origin["base_id"],
        library_name="peft",
        license=options.licence,
        pipeline_tag="text-generation",
        tags=["lora", "sia-runner", *([origin["algorithm"]] if origin["algorithm"] else [])],
        eval_results=results or None,
        model_name=options.repo.rpartition("/")[2],
    )
    texts = {key: "not measured" if origin[key] is None else f"{origin[key]:.3f}" for key in ("reward", "kl")}
    body = _CARD.format(
        name=options.repo.rpartition("/")[2],
        repo=options.repo,
        base=origin["base_id"],
        base_sha256=origin["base_sha256"],
        task=name,
        algorithm=one_line(origin["algorithm"]),
        steps=origin["steps"],
        seed=origin["seed"],
        metric=measured,
        val=val or "not measured",
        test=test or "not measured",
        baseline=baseline or "not measured",
        data_licence=one_line(str(task.get("licence") or "not stated")),
        **texts,
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _adapter_folder(folder: Path) -> Path:
    """Return the folder of an adapter; a generation's folder stands for its adapter."""
    return folder / "adapter" if (folder / "adapter").is_dir() else folder
