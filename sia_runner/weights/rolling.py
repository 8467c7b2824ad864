"""Rollouts: the harness itself runs in its sandbox on rollout questions, against the live policy.

There is no second definition of the prompt: the training data is what the harness asked and the policy answered.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.candidate.execute import Purpose, execute
from sia_runner.candidate.verdicts import verified
from sia_runner.config import Experiment
from sia_runner.records import INFRASTRUCTURE, Outcome, Sampled, Trajectory
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, Site, read_json, remove


@dataclass(frozen=True, slots=True)
class Rolling:
    """The collector of rollouts (see training.protocol.Roll).

    Sample g of step s is run g of the harness, with its own seeds, so it repeats exactly on the same weights. The files
    of a run are removed once its trajectories are read.
    """

    config: Experiment
    run: RunDir
    n: int
    harness: Path
    adapter: Path | None = None  # the adapter that answers if the policy is not `live`
    live: bool = True  # use the current weights, in the middle of a training
    candidate: str = ""  # account that pays; empty: the generation's
    process: int = 0  # number of this process, of several that roll out at the same time

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        compute = rooms(self.config).compute
        collected = compute.map(lambda sample: self._run_sample(list(units), sample, step, temperature), range(samples))
        return [trajectory for of_sample in collected for trajectory in of_sample]

    def _run_sample(self, units: list[str], sample: int, step: int, temperature: float) -> list[Trajectory]:
        config, task = self.config, rooms(self.config).task
        (round_,) = task.rounds("rollout", units=units)
        site = Site(self.run.generation(self.n).path / "rollouts" / f"{self.process}.{sample}")
        seed = f"{config.seed}:rollout {self.n} {step} {sample}"
        purpose = Purpose(
            self.run,
            self.n,
            self.candidate or f"gen_{self.n}",
            "rollout",
            adapter=self.adapter,
            live=self.live,
            sample=sample,
            temperature=temperature,
            seed=seed,
        )
        execution = execute(config, purpose, round_, site, self.harness, seed, config.task.limits.run)
        outcomes = verified(config, site, execution.unanswered)
        calls = _calls(site.trajectories, read_json(site.keys))
        remove(site.path)
        sign = 1.0 if task.higher_is_better else -1.0
        return [_trajectory(outcome, sample, calls[outcome.unit], sign) for outcome in outcomes]


def _trajectory(outcome: Outcome, sample: int, calls: Sequence[Sampled], sign: float) -> Trajectory:
    reward = None if outcome.kind in INFRASTRUCTURE else sign * outcome.value
    return Trajectory(outcome.unit, sample, tuple(calls), reward, outcome.kind)


def _calls(path: Path, keys: dict[str, str]) -> defaultdict[str, list[Sampled]]:
    """Return question -> the policy's finished calls for it, in order; calls without a question are dropped."""
    calls: defaultdict[str, list[Sampled]] = defaultdict(list)
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                call = json.loads(line)
                if call.get("tokens") and call["question"] in keys:
                    calls[keys[call["question"]]].append(_sampled(call))
    return calls


def _sampled(call: dict[str, Any]) -> Sampled:
    tokens = call["tokens"]
    return Sampled(
        prompt_ids=tuple(tokens["prompt_ids"]),
        completion_ids=tuple(tokens["completion_ids"]),
        logprobs=tuple(tokens["logprobs"]),
        finish_reason=call["finish_reason"],
        adapter=tokens["adapter"],
    )
