"""``python -m sia_runner.verify RUN``: recompute every score from the kept submissions and find any edit.

Of the run directory it trusts the submissions alone: ids are derived again, answers come from the prepared data, scores
and verdicts are computed again and compared with the journal, whose hash chain must hold.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sia_runner import stages
from sia_runner.approve import approval
from sia_runner.candidate.verdicts import of_split
from sia_runner.compose.refusals import refusals
from sia_runner.config import Experiment
from sia_runner.ground.history import finished, incumbent, waiting
from sia_runner.ground.journal import Record
from sia_runner.records import Outcome, count_kinds
from sia_runner.rooms import rooms
from sia_runner.run.runner import stored_config
from sia_runner.run.summary import build
from sia_runner.rundir import RunDir, RunError, Site, read_json, sha256_of, tree_sha256
from sia_runner.tasks.protocol import Round

Check = tuple[str, str]  # what was checked, and what is wrong with it ("" for nothing)


def checks(run: RunDir) -> Iterator[Check]:
    """Yield every check of one run directory in the order of the run. Raises JournalError on a broken chain."""
    journal = Record(run.journal)
    began = next(journal.of("began"), None)
    if began is None:
        raise RunError(f"{run.journal}: the run never began")
    yield "journal: hash chain", ""
    for path, name in ((run.config, "config"), (run.lock, "lock")):
        yield path.name, "" if sha256_of(path) == began[f"{name}_sha256"] else "changed since the run began"
    config = stored_config(run)
    rooms(config).task.prepare(lambda _: None)
    locked, hashes = read_json(run.lock)["data"], rooms(config).task.data_hashes()
    yield "data", "" if locked == hashes else "the prepared data is not the data of the run"
    yield from _generations(config, run, journal)
    yield from _tests(config, run, journal)
    yield from _summary(config, run, journal)


def _generations(config: Experiment, run: RunDir, journal: Record) -> Iterator[Check]:
    generations = finished(journal)
    for position, generation in enumerate(generations):
        n, steps = generation.n, generation.steps
        paths = run.generation(n)
        if steps.get("build", {}).get("sha256"):
            unchanged = tree_sha256(paths.harness) == steps["build"]["sha256"]
            yield f"gen_{n}: harness", "" if unchanged else "changed since it was built"
        if trained := steps.get("build", {}).get("adapter_sha256"):
            unchanged = paths.adapter_used is not None and tree_sha256(paths.adapter_used) == trained
            yield f"gen_{n}: adapter", "" if unchanged else "changed since it was trained"
        if approval.needed(config, steps["propose"]["lever"]):
            yield f"gen_{n}: sign-off", approval.fault(run, journal, generation)
        if "verify" not in steps:
            continue
        run_results, select_folds = steps["run"]["runs"], rooms(config).task.rounds("select")
        sites = paths.sites(len(select_folds))
        fault = _submission_fault(config, sites, run_results, select_folds, f"select {n}")
        yield f"gen_{n}: submission", fault
        if fault:
            continue
        val = of_split(config, stages.all_verified(config, sites, run_results), "val")
        yield f"gen_{n}: val score", _compare(config, val, steps["verify"]["val"], steps["verify"]["outcomes"])
        unchanged = sha256_of(paths.scores) == steps["verify"]["scores_sha256"]
        yield f"gen_{n}: scores.json", "" if unchanged else "changed since it was written"
        if unchanged and steps["verify"]["val"]:
            verdict = stages.judge(config, run, n, incumbent(generations[:position]))
            yield f"gen_{n}: verdict", "" if verdict == steps["accept"] else f"recomputed: {verdict['reason']}"

    if (n := waiting(journal)) is not None:
        yield f"gen_{n}: plan", approval.edited(run, journal, n)


def _tests(config: Experiment, run: RunDir, journal: Record) -> Iterator[Check]:
    for entry in journal.of("done"):
        if not entry["step"].startswith("test/"):
            continue
        result, folds = entry["result"], rooms(config).task.rounds("test")
        site = run.test(result["generation"])
        name = f"test of gen_{result['generation']}"
        fault = _submission_fault(config, [site], [result["run"]], folds, "test")
        yield f"{name}: submission", fault
        if not fault:
            outcomes = stages.all_verified(config, [site], [result["run"]])
            yield f"{name}: score", _compare(config, outcomes, result["score"], result["outcomes"])
            if "standing" in result:
                yield f"{name}: standing", _standing(config, site, outcomes, result["standing"])


def _summary(config: Experiment, run: RunDir, journal: Record) -> Iterator[Check]:
    written = read_json(run.summary) if run.summary.is_file() else None
    if written is None or written.get("journal_head") != journal.head:
        yield "summary.json", "" if written is None else "is not of this journal's newest line (a cut run? resume it)"
        return
    expected = build(config, run, journal, written["status"]) | {"run": written["run"]}
    yield "summary.json", "" if written == expected else "does not say what the journal says"


def _submission_fault(
    config: Experiment, sites: Sequence[Site], runs: Sequence[stages.Result], folds: Sequence[Round], purpose: str
) -> str:
    """Check that the submissions are those of the run, and the ids those that the data and the seed give."""
    for site, run_result, fold in zip(sites, runs, folds, strict=True):
        if tree_sha256(site.submission) != run_result["submission_sha256"]:
            return "changed since it was copied out"
        if (sha256_of(site.faults) if site.faults.is_file() else None) != run_result.get("faults_sha256"):
            return "faults.json changed since the run"
        with tempfile.TemporaryDirectory(prefix="sia-verify-") as folder:
            view = rooms(config).task.lay_out(fold, Path(folder) / "view", stages.salt(config, purpose))
            if dict(view.keys) != read_json(site.keys):
                return "keys.json is not what the seed gives"
    return ""


def _compare(config: Experiment, outcomes: Sequence[Outcome], score: object, kinds: object) -> str:
    if count_kinds(outcomes) != kinds:
        return f"recomputed outcomes {count_kinds(outcomes)}, the journal says {kinds}"
    recomputed = rooms(config).task.score(outcomes).as_json()
    return "" if score is None or recomputed == score else f"recomputed {recomputed}, the journal says {score}"


def _standing(config: Experiment, site: Site, outcomes: Sequence[Outcome], recorded: Mapping[str, object]) -> str:
    """Compare the official grader's and leaderboard's result with the journal's.

    A result of another grader than in the run is no contradiction.
    """
    task = rooms(config).task
    recomputed = task.standing(site.submission, read_json(site.keys), task.score(outcomes)) or {}
    if recomputed == recorded or recomputed.get("graded_by") != recorded["graded_by"]:
        return ""
    return f"recomputed {recomputed}, the journal says {recorded}"


def main() -> int:
    """Verify the run directory named on the command line; return the exit code."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m sia_runner.verify RUN_DIR\n\n" + (__doc__ or ""))
        return 0 if "--help" in sys.argv or "-h" in sys.argv else 2
    with refusals() as outcome:
        faults = 0
        for name, fault in checks(RunDir(Path(sys.argv[1]).expanduser().resolve())):
            print(f"{'FAULT' if fault else 'ok   '} {name}{': ' + fault if fault else ''}")
            faults += bool(fault)
        print("every score was recomputed and holds" if not faults else f"{faults} faults: do not trust this run")
        outcome.code = 1 if faults else 0
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
