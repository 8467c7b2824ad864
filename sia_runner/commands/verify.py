"""The command `verify` recomputes every score from the kept submissions and finds any edit."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sia_runner.experiment import sign_off, stages
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import outcomes_of_split
from sia_runner.experiment.runner import existing_run, stored_config
from sia_runner.experiment.summary import build_summary
from sia_runner.records import Outcome, Score, count_kinds
from sia_runner.stage_results import BuildResult, HarnessRun, RunResult, TestResult, VerifyResult
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations, generation_awaiting_approval
from sia_runner.store.run_directory import HarnessRunDir, RunDir, RunDirectoryError, read_json, sha256_of, tree_sha256
from sia_runner.tasks.protocol import Fold


def main(options: Namespace) -> int:
    """Verify the run directory named on the command line; return the exit code."""
    faults = 0
    for name, fault in _run_checks(existing_run(options.run), options.task_dir):
        print(f"{'FAULT' if fault else 'ok   '} {name}{': ' + fault if fault else ''}")
        faults += bool(fault)
    print("every score was recomputed and holds" if not faults else f"{faults} faults: do not trust this run")
    return 1 if faults else 0


def _run_checks(run: RunDir, task_dir: Path | None) -> Iterator[tuple[str, str]]:
    """Yield what was checked, with what is wrong with it or "". Raises JournalError on a broken chain."""
    journal = JournalReader(run.journal)
    began = next(journal.of("began"), None)
    if began is None:
        raise RunDirectoryError(f"{run.journal}: the run never began")
    yield "journal: hash chain", ""
    for path, name in ((run.config, "config"), (run.lock, "lock")):
        yield path.name, "" if sha256_of(path) == began[f"{name}_sha256"] else "changed since the run began"
    config = stored_config(run, [f"task.dir={task_dir}"] if task_dir else [])
    context = RunContext(config, run)
    context.task.prepare(lambda _: None)
    locked, hashes = read_json(run.lock)["data"], context.task.data_hashes()
    yield "data", "" if locked == hashes else "the prepared data is not the data of the run"
    yield from _check_generations(context, journal)
    yield from _check_tests(context, journal)
    yield from _check_summary(context, journal)
    for config_file in sorted(run.transfers.glob("*/config.yaml")):
        yield from _check_transfer(RunDir(config_file.parent))


def _check_transfer(folder: RunDir) -> Iterator[tuple[str, str]]:
    journal = JournalReader(folder.journal)
    opening = next(journal.of("began"), None)
    if opening is None:  # it was cut off before anything was tested
        return
    name, unchanged = f"transfer to {opening['label']}", True
    for path, key in ((folder.config, "config_sha256"), (folder.lock, "lock_sha256")):
        same = sha256_of(path) == opening[key]
        yield f"{name}: {path.name}", "" if same else "changed since the transfer began"
        unchanged = unchanged and same
    if unchanged:
        context = RunContext(stored_config(folder), folder)
        context.task.prepare(lambda _: None)
        yield from ((f"{name}: {what}", fault) for what, fault in _check_tests(context, journal))


def _check_generations(context: RunContext, journal: JournalReader) -> Iterator[tuple[str, str]]:
    config, run = context.config, context.run
    generations = finished_generations(journal)
    for position, generation in enumerate(generations):
        n, steps = generation.n, generation.steps
        paths = run.generation(n)
        built = BuildResult.from_json(steps["build"]) if "build" in steps else BuildResult("")
        if built.sha256:
            unchanged = tree_sha256(paths.harness) == built.sha256
            yield f"gen_{n}: harness", "" if unchanged else "changed since it was built"
        if trained := built.adapter_sha256:
            unchanged = paths.resolved_adapter is not None and tree_sha256(paths.resolved_adapter) == trained
            yield f"gen_{n}: adapter", "" if unchanged else "changed since it was trained"
        if sign_off.needs_sign_off(config, steps["propose"]["lever"]):
            yield f"gen_{n}: sign-off", sign_off.sign_off_fault(run, journal, generation)
        if "verify" not in steps:
            continue
        verified, run_results = VerifyResult.from_json(steps["verify"]), RunResult.from_json(steps["run"]).runs
        select_folds = context.task.rounds("select")
        harness_runs = paths.harness_runs(len(select_folds))
        fault = _submission_fault(context, harness_runs, run_results, select_folds, f"select {n}")
        yield f"gen_{n}: submission", fault
        if fault:
            continue
        val = outcomes_of_split(context, stages.all_verified(context, harness_runs, run_results), "val")
        yield f"gen_{n}: val score", _score_fault(context, val, verified.val, verified.outcomes)
        unchanged = sha256_of(paths.scores) == verified.scores_sha256
        yield f"gen_{n}: scores.json", "" if unchanged else "changed since it was written"
        if unchanged and verified.val:
            verdict = stages.decide(context, n, find_incumbent(generations[:position]))
            yield f"gen_{n}: verdict", "" if verdict.to_json() == steps["accept"] else f"recomputed: {verdict.reason}"

    if (n := generation_awaiting_approval(journal)) is not None:
        yield f"gen_{n}: plan", sign_off.edited_file(run, journal, n)


def _check_tests(context: RunContext, journal: JournalReader) -> Iterator[tuple[str, str]]:
    for entry in journal.of("done"):
        if not entry["step"].startswith("test/"):
            continue
        result, folds = TestResult.from_json(entry["result"]), context.task.rounds("test")
        site = context.run.test(result.generation)
        name = f"test of gen_{result.generation}"
        fault = _submission_fault(context, [site], [result.run], folds, "test")
        yield f"{name}: submission", fault
        if not fault:
            outcomes = stages.all_verified(context, [site], [result.run])
            yield f"{name}: score", _score_fault(context, outcomes, result.score, result.outcomes)
            if result.official_grade is not None:
                yield f"{name}: standing", _grade_fault(context, site, outcomes, result.official_grade)


def _check_summary(context: RunContext, journal: JournalReader) -> Iterator[tuple[str, str]]:
    run = context.run
    written = read_json(run.summary) if run.summary.is_file() else None
    if written is None or written.get("journal_head") != journal.head:
        yield "summary.json", "" if written is None else "is not of this journal's newest line (a cut run? resume it)"
        return
    expected = build_summary(context, journal, written["status"]) | {"run": written["run"]}
    if "untrained" not in written:  # an earlier version, which wrote the configured mode
        expected |= {"mode": context.config.trainer.mode}
        del expected["untrained"]
    yield "summary.json", "" if written == expected else "does not say what the journal says"


def _submission_fault(
    context: RunContext,
    harness_runs: Sequence[HarnessRunDir],
    runs: Sequence[HarnessRun],
    folds: Sequence[Fold],
    purpose: str,
) -> str:
    for site, run_result, fold in zip(harness_runs, runs, folds, strict=True):
        if tree_sha256(site.submission) != run_result.submission_sha256:
            return "changed since it was copied out"
        if (sha256_of(site.faults) if site.faults.is_file() else None) != run_result.faults_sha256:
            return "faults.json changed since the run"
        with tempfile.TemporaryDirectory(prefix="sia-verify-") as folder:
            view = context.task.lay_out(fold, Path(folder) / "view", stages.view_salt(context.config, purpose))
            if dict(view.keys) != read_json(site.keys):
                return "keys.json is not what the seed gives"
    return ""


def _score_fault(context: RunContext, outcomes: Sequence[Outcome], score: Score | None, kinds: object) -> str:
    if count_kinds(outcomes) != kinds:
        return f"recomputed outcomes {count_kinds(outcomes)}, the journal says {kinds}"
    recomputed = context.task.score(outcomes) if score else None
    if score is None or recomputed is None or recomputed == score:
        return ""
    return f"recomputed {recomputed.to_json()}, the journal says {score.to_json()}"


def _grade_fault(
    context: RunContext, site: HarnessRunDir, outcomes: Sequence[Outcome], recorded: Mapping[str, object]
) -> str:
    task = context.task
    recomputed = task.official_grade(site.submission, read_json(site.keys), task.score(outcomes)) or {}
    if recomputed == recorded or recomputed.get("graded_by") != recorded["graded_by"]:
        return ""  # a result of another grader than in the run is no contradiction
    return f"recomputed {recomputed}, the journal says {recorded}"
