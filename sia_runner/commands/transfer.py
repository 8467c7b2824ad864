"""The command `transfer` tests a run's final harness once with another model, or on another task of the same layout.

A transfer is a folder RUN/transfers/<hash of what differs>, a run directory with a journal of its own and nothing but
final tests: of the best candidate and, to see whether its gain carries over, of the first one.
"""

import hashlib
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import yaml

from sia_runner.config.composition import compose_plain
from sia_runner.config.experiment import Experiment, check_experiment
from sia_runner.config.help import split_config_dirs
from sia_runner.config.task import TableTaskConfig
from sia_runner.experiment import stages
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import SandboxFailed
from sia_runner.experiment.runner import existing_run, prepare_run, stored_config
from sia_runner.experiment.summary import format_score
from sia_runner.records import Json, as_object
from sia_runner.results.report.runs import Transfer, read_transfers
from sia_runner.store.generations import harness_called_model
from sia_runner.store.journal import Journal, JournalReader, find_incumbent, finished_generations
from sia_runner.store.lease import RunLease
from sia_runner.store.run_directory import (
    RunDir,
    RunDirectoryError,
    read_json,
    remove_tree,
    sha256_of,
    write_json,
    write_text,
)
from sia_runner.wire.adapter_files import read_adapter_origin, why_not_this_base
from sia_runner.wire.grants import BudgetSpent, ProviderDown

_CHOICES = ("provider", "policy", "target_agent", "task", "sandbox")
_ALLOWED = "allowed: choices and keys of provider, policy, target_agent, task, sandbox and budget"


def main(options: Namespace) -> int:
    """Test the transfer, or show the figures of an earlier one; return the exit code."""
    run = existing_run(options.run)
    journal, own = JournalReader(run.journal), stored_config(run)
    generations = finished_generations(journal)
    best, is_finished = find_incumbent(generations), any(journal.of("ended"))
    if best is None or not is_finished:
        why = "no candidate was accepted" if is_finished else f"it is not finished; continue it with resume={run.path}"
        raise RunDirectoryError(f"{run.path}: {why}")
    config = transfer_config(own, options.overrides)
    if fault := _transfer_fault(own, config, harness_called_model(generations, run.path) is not False):
        raise RunDirectoryError(fault)
    numbers = list(dict.fromkeys([best, next(g.n for g in generations if g.val is not None)]))
    folder = RunDir(run.transfers / _digest(config))
    _carry_out(run, folder, own, config, numbers, journal.head)
    (row,) = (row for row in read_transfers(run.path) if row.name == folder.path.name)
    _show(row, config)
    return 0


def transfer_config(own: Experiment, overrides: Sequence[str]) -> Experiment:
    """Return the run's configuration with what the overrides change, and without proposer, trainer and limits.

    Raises RunDirectoryError for other keys than a transfer may change, and what composing and checking raise.
    """
    _, arguments = split_config_dirs(list(overrides))
    chosen = {text.partition("=")[0] for text in arguments} & {*_CHOICES}
    composed = compose_plain([text for text in overrides if _composes(text, chosen)])
    tree: Json = own.model_dump(by_alias=True, mode="json")
    for name in chosen - {"policy"}:
        tree[name] = composed[name]
    if "policy" in chosen:
        tree["target_agent"]["policy"] = composed["target_agent"]["policy"]
    for name in ("meta_agent", "trainer", "compute", "tracker", "budget", "control", "approve", "web", "notes"):
        tree[name] = composed[name]  # the defaults: nothing is proposed, trained or sent
    tree["search"]["proposer_models"] = []
    for text in arguments:
        root = text.lstrip("+").partition("=")[0].partition(".")[0]
        if root not in (*_CHOICES, "budget") or "=" not in text:
            raise RunDirectoryError(f"{text}: nothing that a transfer can change; {_ALLOWED}")
        if not _composes(text, chosen):
            _set_key(tree, text)
    roots = {text.partition("=")[0].partition(".")[0] for text in arguments}
    target = tree["target_agent"]
    if "provider" in roots:
        target["kind"], target["provider"] = "model", None
    elif "policy" in chosen or any(text.startswith("target_agent.policy.") for text in arguments) or own.has_policy:
        target["kind"] = "policy"
    return check_experiment(tree)


def _composes(text: str, chosen: set[str]) -> bool:
    """Return whether Hydra composes this override: a choice, a key below one, or a folder of choices."""
    key = text.lstrip("+").partition("=")[0]
    below = key.partition(".")[0] in chosen or ("policy" in chosen and key.startswith("target_agent.policy."))
    return text.startswith("--config-dir") or key in _CHOICES or below or key.startswith("budget.")


def _set_key(tree: Json, text: str) -> None:
    """Set an existing key of the stored configuration to the value of an override."""
    key, _, value = text.partition("=")
    *sections, name = key.split(".")
    part = tree
    for section in sections:
        part = as_object(part.get(section))
    if name not in part:
        raise RunDirectoryError(
            f"{text}: no such key in the run's configuration; there is: {', '.join(part) or 'none'}"
        )
    try:
        part[name] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RunDirectoryError(f"{text}: the value is no YAML; quote it") from None


# how calls are made, and not what answers them: another value is no reason for another look at the test set
_CALL_KEYS = {"key", "key_file", "concurrency", "timeout", "attempts", "max_wait_seconds", "cache", "prices"}


def _subject(config: Experiment) -> Json:
    """Return what distinguishes transfers: the task but for its limits, and what answers a harness's model calls."""
    model = config.target_agent.policy if config.has_policy else config.target_provider
    kind = "policy" if config.has_policy else "model" if config.calls_model else "script"
    answers = None if kind == "script" else model.model_dump(mode="json", exclude=_CALL_KEYS)
    task = config.task.model_dump(mode="json", by_alias=True, exclude={"limits", "gate"})
    return {"task": task, "kind": kind, "model": answers}


def _digest(config: Experiment) -> str:
    return hashlib.sha256(json.dumps(_subject(config), sort_keys=True).encode()).hexdigest()[:12]


def _transfer_fault(own: Experiment, config: Experiment, called_model: bool) -> str:
    """Return why there is nothing to transfer, as one line; empty if there is."""
    before, after = _subject(own), _subject(config)
    if before == after:
        return f"task and model are those of the run, whose test is done; {_ALLOWED}"
    if not called_model and any(before[key] != after[key] for key in ("kind", "model")):
        return "no harness of the run called a model, so another one changes nothing; allowed: another task=… alone"
    return "" if before["task"] == after["task"] else _layout_fault(own, config)


def _layout_fault(own: Experiment, config: Experiment) -> str:
    """Return in which way the other task's tables are not those that the harness was made for; empty if they are."""
    old, new = own.task, config.task
    if not isinstance(new, TableTaskConfig) or not isinstance(old, TableTaskConfig):
        return f"task={new.name}: a harness is carried between tasks of tables alone; the run's is {old.name}"
    keys = ["submission", "columns", *(["questions_alias"] if old.questions_alias else [])]
    for key in keys:
        if getattr(old, key) != getattr(new, key):
            its, theirs = getattr(new, key), getattr(old, key)
            return f"task={new.name} has another layout: task.{key} is {its}, the harness was made for {theirs}"
    return ""


def _label(config: Experiment) -> str:
    """Return the transfer's name in reports: the task, and what answers model calls."""
    if config.has_policy:
        answers = f"policy {config.target_agent.policy.base}"
    elif config.calls_model:
        answers = f"provider {config.target_provider.name}/{getattr(config.target_provider, 'model', '')}"
    else:
        answers = "no model"
    return f"task {config.task.name}, {answers}"


class _NotScored(Exception):
    """Raised when a test fails for a reason that is not the harness's."""


def _known_questions(run: RunDir, own: Experiment, context: RunContext) -> str:
    """Return why the test is none: questions of the run's own data that were not its test. Empty if there are none."""
    if read_json(run.lock).get("data") != context.task.data_hashes():
        return ""
    before = RunContext(own, run).task
    before.prepare(lambda _: None)
    test = context.task.splits()["test"]
    others = set(test) - set(before.splits()["test"])
    if not others:
        return ""
    why = f"{len(others)} of its {len(test)} test questions are the run's own train, dev or val"
    return f"task={context.task.name} has other splits of the run's data: {why}; allowed: the run's task.splits"


def _carry_out(
    run: RunDir, folder: RunDir, own: Experiment, config: Experiment, numbers: Sequence[int], head: str
) -> None:
    """Test each candidate that the folder's journal has no result of."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with RunLease(folder.path) as lease, closing(Journal(folder.journal)) as journal:
        if not all(journal.result(f"test/gen_{n}") for n in numbers):
            _test_all(run, own, RunContext(config, folder), journal, lease, numbers, head)
        if next(journal.of("ended"), None) is None:
            journal.append("ended", status="completed", best=numbers[0])


def _test_all(
    run: RunDir,
    own: Experiment,
    context: RunContext,
    journal: Journal,
    lease: RunLease,
    numbers: Sequence[int],
    head: str,
) -> None:
    """Prepare the transfer, and test each candidate. Raises RunDirectoryError for a test that could not be made."""
    context.record_event = journal.append
    try:
        if not context.task.has_test:
            raise RunDirectoryError(f"task={context.task.name} has no test to transfer to; use a native task")
        prepare_run(context)
        if fault := _known_questions(run, own, context):
            raise RunDirectoryError(fault)
        if next(journal.of("began"), None) is None:
            _begin(run, context, journal, numbers, head)
        for n in numbers:
            lease.check()
            journal.once(f"test/gen_{n}", lambda n=n: _test(context, n))
    except (ProviderDown, BudgetSpent, SandboxFailed, _NotScored) as error:
        again = "nothing is recorded of this test: the same command tries it again"
        raise RunDirectoryError(f"{context.run.path}: {error}; {again}") from None
    finally:
        context.close_gateway()
        context.close_servers()


def _begin(run: RunDir, context: RunContext, journal: Journal, numbers: Sequence[int], head: str) -> None:
    """Copy the harnesses, link the adapter where it fits, and journal what this is."""
    folder, config, note = context.run, context.config, ""
    for n in numbers:
        target = folder.generation(n)
        remove_tree(target.path)
        shutil.copytree(run.generation(n).harness, target.harness, symlinks=True)
        if (adapter := run.adapter_of(n)) is None:
            continue
        reason = _adapter_fault(context, adapter)
        if reason:
            note = f"without the adapter of generation {n}, which {reason}"
        else:
            target.adapter.symlink_to(os.path.relpath(adapter, target.path.resolve()))  # the run may move
            note = f"with the adapter of generation {n}"
    write_text(folder.config, yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False, allow_unicode=True))
    write_json(folder.lock, {"run": run.path.name, "journal_head": head, "data": context.task.data_hashes()})
    hashes = {"config_sha256": sha256_of(folder.config), "lock_sha256": sha256_of(folder.lock)}
    journal.append("began", transfer_of=run.path.name, label=_label(config), note=note, **hashes)


def _adapter_fault(context: RunContext, adapter: Path) -> str:
    """Return why the adapter cannot be carried over; empty if it fits."""
    gateway = context.gateway
    if not context.config.has_policy or gateway is None:
        return "no provider's model takes"
    policy, spec = gateway.policy(), context.config.target_agent.policy
    written = asdict(read_adapter_origin(adapter))
    return why_not_this_base(written, policy.base_id, policy.base_sha256, trust_base=spec.trust_base)


def _test(context: RunContext, n: int) -> Json:
    """Test one candidate; return the journal's entry. Raises _NotScored."""
    result = stages.final_test(context, n)
    if result.score is None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.outcomes.items())
        raise _NotScored(f"generation {n} could not be scored ({kinds})")
    return result.to_json()


def _show(row: Transfer, config: Experiment) -> None:
    print(f"{row.label}{f'; {row.note}' if row.note else ''}: {config.task.metric.name} on test, tested once")
    if row.final:
        print(f"  generation {row.best}, the run's best: {format_score(row.final.to_json())}")
    if row.initial:
        print(f"  its first harness: {format_score(row.initial.to_json())}")
    if row.gain:
        print(f"  {row.gain}")
