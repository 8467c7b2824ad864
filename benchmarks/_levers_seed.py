"""Runs the arms of one seed in one process, so that torch and trl are imported once. Started by levers.py."""

import json
import resource
import sys
from contextlib import nullcontext
from pathlib import Path

from _levers_arms import CONTROLS, HARNESS, Experiment, overrides
from _levers_gold import gold_rollouts

from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.runner import resume_run, start_run
from sia_runner.store.run_directory import RunDir, read_json, write_json


def main(experiment: Experiment, seed: int, folder: Path, arms: list[str]) -> int:
    """RUN directories `folder`/<arm>; finished ones are left alone, cut ones resumed."""
    for arm in arms:
        run = RunDir(folder / arm)
        if not done(run.path):
            code = _carry_out(experiment, arm, seed, run)
            if code:
                print(f"arm {arm}, seed {seed}: exit code {code}", file=sys.stderr)
                return code
    return 0


def done(folder: Path) -> bool:
    summary = folder / "summary.json"
    return (folder / "cost.json").is_file() and summary.is_file() and read_json(summary)["status"] == "completed"


def _carry_out(experiment: Experiment, arm: str, seed: int, run: RunDir) -> int:
    arguments = overrides(experiment, arm, seed, run.path.parent / HARNESS)
    plain = compose_overrides(arguments)
    if plain is None:
        return 2
    config, before = check_experiment(plain), _cpu()
    with gold_rollouts() if arm in CONTROLS else nullcontext():
        code = resume_run(run.path, []) if run.config.is_file() else start_run(config, run.path, arguments)
    if code == 0:
        write_json(run.path / "cost.json", {"cpu_seconds": round(_cpu() - before, 1)})
    return code


def _cpu() -> float:
    """CPU seconds of this process and of its sandboxes so far."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    shared = options["experiment"]
    experiment = Experiment(**{**shared, "settings": tuple(shared["settings"])})
    sys.exit(main(experiment, options["seed"], Path(options["folder"]), options["arms"]))
