"""Trajectories to train on, written as rewards."""

from sia_runner.config.training import AlgorithmConfig
from sia_runner.records import OutcomeKind, SampledCall, Trajectory


def call(completion=(4, 5), prompt=(1, 2, 3)):
    return SampledCall(tuple(prompt), tuple(completion), (-0.5,) * len(completion), "stop", "base")


def trajectory(reward, *calls, unit="q", sample=0):
    return Trajectory(unit, sample, calls or (call((4, sample)),), reward, OutcomeKind.PARTIAL)


def group(rewards, unit="q"):
    """One question's trajectories, one call each, whose completions differ in their second token."""
    return [trajectory(reward, unit=unit, sample=sample) for sample, reward in enumerate(rewards)]


def groups(*rewards):
    return [one for number, some in enumerate(rewards) for one in group(some, f"q{number}")]


def configured(algorithm, kind="online", group_size=4, options=None, **keys):
    """The configuration of `algorithm`, as conf/trainer composes it."""
    data = {"name": algorithm, "kind": kind, "mode": "SIA-W+H", "algorithm": algorithm, "group_size": group_size}
    return AlgorithmConfig.model_validate(data | {"options": options or {}} | keys)
