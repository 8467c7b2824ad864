"""Rollouts: the harness itself, run in its sandbox on rollout questions against the live policy.

There is no second definition of the prompt: what is trained on is what the harness asked and the policy answered.
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
    """See training.protocol.Roll. Sample g of step s is run g of the harness, with seeds of its own; the same again for
    the same weights. What a run leaves behind is removed: the trajectories are what counts."""

    config: Experiment
    run: RunDir
    n: int
    harness: Path
    adapter: Path | None = None  # answers, where the policy is not `live`
    live: bool = True  # the weights as they are in the middle of training
    candidate: str = ""  # whose account pays; empty: the generation's
    process: int = 0  # of several that roll out at the same time

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        compute = rooms(self.config).compute
        rolled = compute.map(lambda sample: self._one(list(units), sample, step, temperature), range(samples))
        return [trajectory for of_sample in rolled for trajectory in of_sample]

    def _one(self, units: list[str], sample: int, step: int, temperature: float) -> list[Trajectory]:
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
    """unit -> the policy's finished calls for it, in order. Calls without a question belong to nobody."""
    found: defaultdict[str, list[Sampled]] = defaultdict(list)
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                call = json.loads(line)
                if call.get("tokens") and call["question"] in keys:
                    found[keys[call["question"]]].append(_sampled(call))
    return found


def _sampled(call: dict[str, Any]) -> Sampled:
    tokens = call["tokens"]
    return Sampled(
        prompt_ids=tuple(tokens["prompt_ids"]),
        completion_ids=tuple(tokens["completion_ids"]),
        logprobs=tuple(tokens["logprobs"]),
        finish_reason=call["finish_reason"],
        adapter=tokens["adapter"],
    )
