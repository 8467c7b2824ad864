"""``python -m sia_runner.verify RUN``: recompute every score from the kept submissions and find any edit.

Nothing in the run directory is believed but the submissions: ids are derived again, answers come from the prepared
data, scores and verdicts are computed again and compared with the journal, whose hash chain must hold.
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
    """Every check of one run directory, in the order of the run. JournalError when the chain does not hold."""
    journal = Record(run.journal)
    began = next(journal.of("began"), None)
    if began is None:
        raise RunError(f"{run.journal}: the run never began")
    yield "journal: hash chain", ""
    for path, name in ((run.config, "config"), (run.lock, "lock")):
        yield path.name, "" if sha256_of(path) == began[f"{name}_sha256"] else "changed since the run began"
    config = stored_config(run)
    rooms(config).task.prepare(lambda _: None)
    locked, now = read_json(run.lock)["data"], rooms(config).task.data_hashes()
    yield "data", "" if locked == now else "the prepared data is not the data of the run"
    yield from _generations(config, run, journal)
    yield from _tests(config, run, journal)
    yield from _summary(config, run, journal)


def _generations(config: Experiment, run: RunDir, journal: Record) -> Iterator[Check]:
    done = finished(journal)
    for at, generation in enumerate(done):
        n, steps = generation.n, generation.steps
        here = run.generation(n)
        if steps.get("build", {}).get("sha256"):
            same = tree_sha256(here.harness) == steps["build"]["sha256"]
            yield f"gen_{n}: harness", "" if same else "changed since it was built"
        if trained := steps.get("build", {}).get("adapter_sha256"):
            same = here.adapter_used is not None and tree_sha256(here.adapter_used) == trained
            yield f"gen_{n}: adapter", "" if same else "changed since it was trained"
        if approval.needed(config, steps["propose"]["lever"]):
            yield f"gen_{n}: sign-off", approval.fault(run, journal, generation)
        if "verify" not in steps:
            continue
        runs, all_rounds = steps["run"]["runs"], rooms(config).task.rounds("select")
        sites = here.sites(len(all_rounds))
        fault = _kept(config, sites, runs, all_rounds, f"select {n}")
        yield f"gen_{n}: submission", fault
        if fault:
            continue
        val = of_split(config, stages.all_verified(config, sites, runs), "val")
        yield f"gen_{n}: val score", _compare(config, val, steps["verify"]["val"], steps["verify"]["outcomes"])
        same = sha256_of(here.scores) == steps["verify"]["scores_sha256"]
        yield f"gen_{n}: scores.json", "" if same else "changed since it was written"
        if same and steps["verify"]["val"]:
            verdict = stages.judge(config, run, n, incumbent(done[:at]))
            yield f"gen_{n}: verdict", "" if verdict == steps["accept"] else f"recomputed: {verdict['reason']}"

    if (n := waiting(journal)) is not None:
        yield f"gen_{n}: plan", approval.edited(run, journal, n)


def _tests(config: Experiment, run: RunDir, journal: Record) -> Iterator[Check]:
    for entry in journal.of("done"):
        if not entry["step"].startswith("test/"):
            continue
        result, rounds = entry["result"], rooms(config).task.rounds("test")
        site = run.test(result["generation"])
        name = f"test of gen_{result['generation']}"
        fault = _kept(config, [site], [result["run"]], rounds, "test")
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


def _kept(
    config: Experiment, sites: Sequence[Site], runs: Sequence[stages.Result], rounds: Sequence[Round], purpose: str
) -> str:
    """Are the submissions those of the run, and the ids those that the data and the seed give?"""
    for site, ran, round_ in zip(sites, runs, rounds, strict=True):
        if tree_sha256(site.submission) != ran["submission_sha256"]:
            return "changed since it was copied out"
        if (sha256_of(site.faults) if site.faults.is_file() else None) != ran.get("faults_sha256"):
            return "faults.json changed since the run"
        with tempfile.TemporaryDirectory(prefix="sia-verify-") as folder:
            view = rooms(config).task.lay_out(round_, Path(folder) / "view", stages.salt(config, purpose))
            if dict(view.keys) != read_json(site.keys):
                return "keys.json is not what the seed gives"
    return ""


def _compare(config: Experiment, outcomes: Sequence[Outcome], score: object, kinds: object) -> str:
    if count_kinds(outcomes) != kinds:
        return f"recomputed outcomes {count_kinds(outcomes)}, the journal says {kinds}"
    again = rooms(config).task.score(outcomes).as_json()
    return "" if score is None or again == score else f"recomputed {again}, the journal says {score}"


def _standing(config: Experiment, site: Site, outcomes: Sequence[Outcome], said: Mapping[str, object]) -> str:
    """What the official grader and the leaderboard say now; where another grader is at hand than in the run, its word
    is no contradiction."""
    task = rooms(config).task
    again = task.standing(site.submission, read_json(site.keys), task.score(outcomes)) or {}
    if again == said or again.get("graded_by") != said["graded_by"]:
        return ""
    return f"recomputed {again}, the journal says {said}"


def main() -> int:
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
