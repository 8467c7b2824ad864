"""The comparison of finished runs by their test scores: pure functions of run directories."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sia_runner.config.experiment import check_experiment
from sia_runner.config.migration import read_stored_config
from sia_runner.records import Json, Outcome
from sia_runner.selection.scoring import mean_value, paired_difference
from sia_runner.store.directions import directed_words, read_directions
from sia_runner.store.files import read_slice
from sia_runner.store.generations import CONTROL, earned_mode, harness_called_model
from sia_runner.store.journal import JournalError, JournalReader, finished_generations, test_result_of
from sia_runner.store.run_directory import RunDir, RunDirectoryError, read_json

# keys that may differ; the kind of target agent is compared instead of its name
_TREATMENT_KEYS = ("trainer.", "seed", "lever.", "target_agent.name", "target_agent.kind", "web", "control", "notes")
_CONTROL_KEYS = ("budget.", "max_gen", "search.")  # which the equal budget replaces in a control arm
_BACKEND = "target_agent.policy.backend"
MAX_FILE_BYTES = 64 << 20  # bytes of summary.json and scores.json
_MAX_KEYS = 10_000  # of a configuration: a few lines of YAML references could expand without end


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run. `row` is what a report shows of it; the rest decides whether two can be compared."""

    row: Json
    config: Mapping[str, Any]  # dotted keys
    outcomes: tuple[Outcome, ...]  # of the best generation on test
    higher_is_better: bool
    test_sha256: str
    policy_sha256: str | None  # of the base model; None if no policy is called or none was recorded
    harness_sha256: str | None  # of the first harness; None if its proposer failed

    @property
    def name(self) -> str:
        """The name of the run in the comparison."""
        return self.row["run"]


def runs_in_folders(folders: Sequence[Path]) -> list[RunDir]:
    """Return the runs of folders, each a run or a folder of runs (in the order of job numbers). Raises RunError."""

    def job_number(path: Path) -> tuple[int, str]:
        number = path.name.partition("-")[0]
        return (int(number) if number.isdecimal() else 0, path.name)

    result: list[RunDir] = []
    for folder in folders:
        inside = sorted((path.parent for path in folder.glob("*/config.yaml")), key=job_number)
        runs = [folder] if (folder / "config.yaml").is_file() else inside
        if not runs:
            raise RunDirectoryError(f"{folder}: no run there, and no folder of runs (config.yaml is missing)")
        result += [RunDir(path) for path in runs]
    if twice := next((run for at, run in enumerate(result) if run in result[:at]), None):
        raise RunDirectoryError(f"{twice.path} is named twice")
    return result


def read_finished_runs(runs: Sequence[RunDir]) -> list[FinishedRun]:
    """Read runs, named by folders or else by whole paths. Raises RunError if one is not finished or was edited."""
    names = [run.path.name for run in runs]
    result: list[FinishedRun] = []
    for run in runs:
        try:
            result.append(_read_finished_run(run, run.path.name if names.count(run.path.name) == 1 else str(run.path)))
        except JournalError as error:
            raise RunDirectoryError(f"{run.path}: {error}") from error
        except (RunDirectoryError, ValidationError):
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
            # another program may have written the files
            problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            raise RunDirectoryError(f"{run.path}: its files cannot be read ({problem})") from error
    return result


def _read_finished_run(run: RunDir, name: str) -> FinishedRun:
    journal = JournalReader(run.journal)
    end_entry = next(reversed([*journal.of("ended")]), None)
    tested = test_result_of(journal, end_entry["best"]) if end_entry else None
    summary = read_json(run.summary) if end_entry and run.summary.is_file() else {}
    if not end_entry or summary.get("journal_head") != journal.head:
        raise RunDirectoryError(f"{run.path} is not finished; continue it with resume={run.path}")
    if summary["selected_on_test"]:
        raise RunDirectoryError(f"{run.path}: its task cannot be split, so there is no test score to compare")
    if not tested or not tested["score"]:
        raise RunDirectoryError(f"{run.path} ended without a test score (status {end_entry['status']})")
    outcomes = read_test_outcomes(run.path, journal, end_entry["best"])
    if not outcomes:
        scores = run.test(end_entry["best"]).path / "scores.json"
        raise RunDirectoryError(f"{scores} was changed since it was written: python -m sia_runner verify {run.path}")
    config, lock = read_stored_config(run.config), read_json(run.lock)
    stored, experiment = _dotted_keys(config), check_experiment(config)
    generations = finished_generations(journal)
    mode = earned_mode(experiment.trainer.mode, generations, run.path)
    target_kind = "policy" if experiment.has_policy else "model" if experiment.calls_model else "script"
    if harness_called_model(generations, run.path) is False:
        target_kind = "script"
    test_questions = json.dumps([sorted(outcome.unit for outcome in outcomes), sorted(lock["data"].items())])
    # with the defaults of keys that an earlier version did not have
    settings = stored | _dotted_keys(experiment.model_dump(mode="json")) | {"target_agent": target_kind}
    if _BACKEND in settings:
        settings[_BACKEND] = backends_in_order(str(settings[_BACKEND]), journal)
    return FinishedRun(
        row={"run": name} | _run_row(summary, journal) | {"mode": mode},
        config=settings,
        outcomes=outcomes,
        higher_is_better=summary["metric"]["higher_is_better"],
        test_sha256=hashlib.sha256(test_questions.encode()).hexdigest(),
        policy_sha256=(lock.get("policy") or {}).get("sha256"),
        harness_sha256=generations[0].steps.get("build", {}).get("sha256"),
    )


def backends_in_order(stored: str, journal: JournalReader) -> str:
    """Return what answered for the policy: the stored backend, and the one for which a resume left a service."""
    overrides = (text for entry in journal.of("resumed") for text in entry["overrides"])
    later = (value for key, _, value in (text.partition("=") for text in overrides) if key == _BACKEND)
    return ", then ".join(dict.fromkeys([stored, *later]))


def read_test_outcomes(run: Path, journal: JournalReader, n: int) -> tuple[Outcome, ...]:
    """Return the outcomes of generation `n` on test; none if scores.json is not the one that the verifier wrote."""
    chunk = read_slice(run, f"test/gen_{n}/scores.json", 0, MAX_FILE_BYTES)
    result = journal.result(f"test/gen_{n}") or {}
    if chunk is None or hashlib.sha256(chunk.data).hexdigest() != result.get("scores_sha256"):
        return ()
    return tuple(map(Outcome.from_json, json.loads(chunk.data)["outcomes"]))


def _run_row(summary: Json, journal: JournalReader) -> Json:
    accepted = [g for g in summary["generations"] if g["status"] == "accepted"]
    best = summary["best"]
    return {
        "task": summary["task"],
        "metric": summary["metric"]["name"],
        "algorithms": [g["algorithm"] for g in accepted if g["algorithm"]],  # of the updates that were accepted
        "seed": summary["seed"],
        "best": best["generation"],
        **{key: best[key] for key in ("val", "test", "baseline_test")},
        "directed": len(read_directions(journal)),  # notes of a person
        "test_runs": sum(entry["step"].startswith("test/") for entry in journal.of("done")),
        "usage": summary["usage"],
        "seconds": round(sum(entry["seconds"] for entry in journal.of("done")), 1),
    }


def compare_runs(arms: Sequence[FinishedRun]) -> Json:
    """Compare each run with the first of its own seed, or of all if seeds are not shared. Raises RunError."""
    if len(arms) < 2:
        raise RunDirectoryError("one run is no comparison: name two, or a folder that holds several")
    first = arms[0]
    for arm in arms[1:]:
        if key := next((key for key in ("task", "metric") if arm.row[key] != first.row[key]), None):
            other = f"{key} {arm.row[key]}, {first.name} has {first.row[key]}"
            raise RunDirectoryError(f"{arm.name} cannot be compared: it has {other}")
        if arm.test_sha256 != first.test_sha256:
            raise RunDirectoryError(f"{arm.name} and {first.name} were tested on different questions or data")
    shared = len({arm.row["seed"] for arm in arms}) < len(arms)
    pairs: list[Json] = []
    notes: list[str] = []
    for at, new in enumerate(arms):
        earlier = [arm for arm in arms[:at] if not shared or arm.row["seed"] == new.row["seed"]]
        for old in earlier[:1]:
            pairs.append(_pair_figures(old, new))
            notes += _setup_differences(old, new)
    return {"test_sha256": first.test_sha256, "runs": [arm.row for arm in arms], "pairs": pairs, "notes": notes}


def _pair_figures(old: FinishedRun, new: FinishedRun) -> Json:
    """Return a pair's figures. Losses, wins, error and p are None if the metric is no mean over questions."""
    by_question = paired_difference(new.outcomes, old.outcomes, new.higher_is_better)
    change = new.row["test"]["value"] - old.row["test"]["value"]
    no_mean = any(abs(mean_value(arm.outcomes) - arm.row["test"]["value"]) > 1e-9 for arm in (old, new))
    figures: Json = {"seed": new.row["seed"], "old": old.name, "new": new.name, "difference": change}
    keys = ("standard_error", "lost", "won", "p_value")
    return figures | {key: None if no_mean else getattr(by_question, key) for key in keys}


def _setup_differences(old: FinishedRun, new: FinishedRun) -> Iterator[str]:
    both = f"{old.name} and {new.name}"
    for arm in (old, new):
        if words := directed_words(arm.row.get("directed", 0)):
            yield f"{both}: no fair comparison, {arm.name} was {words}"
    if old.row["seed"] != new.row["seed"]:
        yield f"{both}: other seeds ({old.row['seed']}, {new.row['seed']})"
    if old.harness_sha256 != new.harness_sha256:
        yield f"{both} began with different harnesses"
    if old.policy_sha256 != new.policy_sha256:
        digests = ", ".join((arm.policy_sha256 or "")[:12] or "none recorded" for arm in (old, new))
        yield f"{both} began with different policies ({digests})"
    control = any(str(arm.row.get("mode", "")).startswith(CONTROL) for arm in (old, new))
    if control:
        yield f"{both}: spent {_spending(old.row)}, {_spending(new.row)}"
    treated = (*_TREATMENT_KEYS, *(_CONTROL_KEYS if control else ()))
    for key in sorted({*old.config, *new.config}):
        old_value, new_value = old.config.get(key), new.config.get(key)
        if old_value != new_value and not key.startswith(treated):
            yield f"{both}: {key} is {old_value}, {new_value}"


def _spending(row: Json) -> str:
    usd = row["usage"]["usd"]
    dollars = "dollars not known" if usd is None else f"USD {usd:.4f}"
    return f"{row['usage']['tokens']:,} tokens and {row['seconds']:.1f} s ({dollars})"


def _dotted_keys(config: Json) -> Json:
    flattened: Json = {}
    trees: list[tuple[str, Mapping[str, Any]]] = [("", config)]
    for before, tree in trees:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                trees.append((f"{before}{key}.", value))
            else:
                flattened[f"{before}{key}"] = value
        if len(flattened) + len(trees) > _MAX_KEYS:
            raise ValueError(f"config.yaml has more than {_MAX_KEYS} keys")
    return flattened
