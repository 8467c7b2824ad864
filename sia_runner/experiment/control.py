"""Control arms: what an equal budget buys without improvement, as a run of its own beside those it is compared with.

The budget is what a finished run spent: dollars and tokens of its ledger, seconds of its finished steps, the final test
included. Both arms begin with that run's first harness. `votes` runs it as often as the budget allows and answers with
the most frequent answer; `random` draws proposals without any feedback and selects by the same rule.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.config.experiment import ControlConfig, Experiment
from sia_runner.config.migration import read_stored_config
from sia_runner.config.task import TableTaskConfig
from sia_runner.experiment import voting_program
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.harness_files import read_harness
from sia_runner.gateway.ledger_files import read_totals
from sia_runner.records import Lever, Proposal, Usage
from sia_runner.stage_results import GateResult, RunResult
from sia_runner.store.files import as_dict
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations
from sia_runner.store.run_directory import RunDir, RunDirectoryError

_UNITS = ("usd", "tokens", "seconds")
# What a control arm has in common with the run that it is compared with
_EQUAL_KEYS = (
    *("task.name", "seed", "split_seed", "meta_agent.name", "target_agent.kind", "target_agent.policy.base"),
    *("provider.name", "provider.model", "search.accept.rule"),
)


@dataclass(frozen=True, slots=True)
class Spending:
    """The spending of a whole run; `usd` is None where some price is not known."""

    usd: float | None
    tokens: int
    seconds: float  # of all finished steps

    @staticmethod
    def of(run: RunDir, journal: JournalReader) -> "Spending":
        """Return the spending by the ledger and the journal."""
        total = read_totals(run.ledger).total
        seconds = sum(entry["seconds"] for _, entry in journal.done())
        return Spending(total.dollars if total.priced else None, total.tokens, round(seconds, 3))


def with_equal_budget(config: Experiment) -> Experiment:
    """Return the configuration with the budget of the run that control.like names. Raises RunDirectoryError."""
    control = config.control
    if control is None:
        return config
    if control.arm == "votes" and (reason := _no_votes(config)):
        raise RunDirectoryError(reason)
    if control.like is None or control.source:
        return config
    run = _reference_run(config, Path(control.like).expanduser().resolve())
    journal = JournalReader(run.journal)
    spending = Spending.of(run, journal)
    limits = {unit: getattr(control, unit) or getattr(spending, unit) or None for unit in _UNITS}
    record = {"like": str(run.path), "source": f"{run.path.name}, journal {journal.head[:16]}"}
    return config.model_copy(update={"control": control.model_copy(update=limits | record)})


def _no_votes(config: Experiment) -> str:
    """Return why there can be no vote on the task's answers; empty where there can be one."""
    task = config.task
    if isinstance(task, TableTaskConfig) and task.submission.endswith(".csv") and not task.columns.answer_is_file:
        return ""
    return f"control.arm=votes counts answers in a CSV file, but task={task.name} has none; allowed: control.arm=random"


def _reference_run(config: Experiment, folder: Path) -> RunDir:
    """Return the finished run at `folder`, or the one below it with the same task and seeds."""
    if (folder / "config.yaml").is_file():
        if fault := _difference(config, folder) or _unfinished(folder):
            raise RunDirectoryError(f"control.like={folder}: {fault}")
        return RunDir(folder)
    below = sorted(path.parent for path in folder.glob("*/config.yaml"))
    fitting = [path for path in below if not _difference(config, path) and not _unfinished(path)]
    if len(fitting) != 1:
        names = ", ".join(path.name for path in fitting) or "none"
        wanted_run = f"task={config.task.name} seed={config.seed} split_seed={config.split_seed}"
        problem = f"finished runs of {wanted_run} with these settings: {names}"
        raise RunDirectoryError(f"control.like={folder}: {problem}; name a folder with one, or the run itself")
    return RunDir(fitting[0])


def _difference(config: Experiment, folder: Path) -> str:
    """Return the first setting in which that run is not comparable; empty if there is none."""
    other, own = read_stored_config(folder / "config.yaml"), config.model_dump(by_alias=True)
    if other.get("control"):
        return "it is a control arm itself; name the run that it is to be compared with"
    for key in _EQUAL_KEYS:
        theirs, ours = _value_at(other, key), _value_at(own, key)
        if key == "target_agent.kind":
            trains = _value_at(other, "trainer.kind") != "none"
            theirs = "policy" if theirs == "auto" and trains else theirs
        if theirs != ours:
            return f"its {key} is {theirs}, here it is {ours}; a control arm differs in the improvement alone"
    return ""


def _value_at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = as_dict(value).get(part)
    return value


def _unfinished(folder: Path) -> str:
    ended = next(reversed([*JournalReader(folder / "journal.jsonl").of("ended")]), None)
    if ended is None:
        return f"it is not finished; continue it with resume={folder}"
    return "" if ended["best"] else "no candidate of it was scored"


def first_harness(control: ControlConfig) -> Proposal | None:
    """Return the proposal of the first harness of the run that is compared with; None where none is named."""
    if control.like is None:
        return None
    folder = RunDir(Path(control.like)).generation(1).harness
    if not folder.is_dir():
        raise RunDirectoryError(f"control.like={control.like}: {folder} is missing")
    words = f"The first harness of {control.source}: the same start, at no cost."
    return Proposal(Lever.HARNESS, words, files=read_harness(folder), title="first harness")


def voted_harness(context: RunContext, control: ControlConfig) -> Proposal:
    """Return generation 2 of a voting arm: the first harness, run as often as the budget allows."""
    task, journal = context.config.task, JournalReader(context.run.journal)
    first = finished_generations(journal)[0]
    if "run" not in first.steps or first.val is None:
        return Proposal(Lever.STOP, f"the first harness has no score to vote with: {first.reason}")
    counts = _affordable_samples(context, control, first, Spending.of(context.run, journal))
    samples = min([*counts.values(), control.most_samples])
    budget = ", ".join(f"{unit} {count}" for unit, count in counts.items()) or "no unit limits it"
    why = f"samples that the equal budget buys: {budget}; control.most_samples={control.most_samples}"
    if samples < 2:
        return Proposal(Lever.STOP, f"there is no second sample to vote with ({why})", title="no vote")
    assert isinstance(task, TableTaskConfig)  # noqa: S101 - checked before the run began
    inner = read_harness(context.run.generation(1).harness)
    settings = {
        "entry": context.task.entry,
        "samples": samples,
        "seconds": task.limits.run,
        "submission": task.submission,
        "columns": [task.columns.id, *task.answer_columns],
    }
    files = {f"voted/{name}": text for name, text in inner.items()}
    files |= {name: text for name, text in inner.items() if name == "requirements.txt"}
    files |= {context.task.entry: Path(voting_program.__file__).read_text(encoding="utf-8")}
    files |= {"voting.json": json.dumps(settings, indent=1) + "\n"}
    notes = {"samples": samples, "affordable": counts}
    return Proposal(Lever.HARNESS, why, files=files, title=f"vote of {samples} samples", notes=notes, parent=1)


def _affordable_samples(
    context: RunContext, control: ControlConfig, first: GenerationRecord, spending: Spending
) -> dict[str, int]:
    """Return unit -> the number of samples of dev, val and test that the budget pays, after the first harness's own."""
    run, gate, ratio = _run_cost(first), _gate_cost(first), _test_ratio(context)
    counts: dict[str, int] = {}
    for unit in _UNITS:
        limit, spent_so_far = getattr(control, unit), getattr(spending, unit)
        each = run[unit] * (1 + ratio) + gate[unit]
        if limit is not None and spent_so_far is not None and each > 0:
            counts[unit] = max(0, int((limit - spent_so_far - run[unit] * ratio) / each))
    return counts


def _run_cost(generation: GenerationRecord) -> dict[str, float]:
    """Return what the run on dev and val cost; nothing if there was none."""
    usage = RunResult.from_json(generation.steps["run"]).usage if "run" in generation.steps else Usage()
    return {"usd": usage.usd, "tokens": usage.tokens, "seconds": generation.seconds.get("run", 0.0)}


def _gate_cost(generation: GenerationRecord) -> dict[str, float]:
    usage = GateResult.from_json(generation.steps["gate"]).usage or Usage()
    return {"usd": usage.usd, "tokens": usage.tokens, "seconds": generation.seconds.get("gate", 0.0)}


def _test_ratio(context: RunContext) -> float:
    """Return the number of test questions for each question of dev and val."""
    if not context.task.has_test:
        return 0.0
    test, select = (sum(len(fold.questions) for fold in context.task.rounds(name)) for name in ("test", "select"))
    return test / max(1, select)


def budget_reason(context: RunContext, journal: JournalReader) -> str:
    """Return why a random arm proposes no more: its budget is spent, less the tests that follow; else ""."""
    control, generations = context.config.control, finished_generations(journal)
    if control is None or control.arm != "random" or not generations:
        return ""
    spending, ratio, best = Spending.of(context.run, journal), _test_ratio(context), find_incumbent(generations)
    tests = [_run_cost(g) for g in generations if g.n in (1, best)]
    for unit in _UNITS:
        limit, amount = getattr(control, unit), getattr(spending, unit)
        if limit is not None and amount is not None:
            amount += ratio * sum(cost[unit] for cost in tests)
            if amount >= limit:
                return f"the equal budget is spent: {amount:,.6g} of {limit:,.6g} {unit}, the tests included"
    return ""


def samples_of(context: RunContext, n: int) -> int:
    """Return how many samples candidate `n` runs one after the other: each has the time limit of a run."""
    control = context.config.control
    if control is None or control.arm != "votes" or n == 1:
        return 1
    return int(context.run.generation(n).read_proposal().notes.get("samples", 1))
