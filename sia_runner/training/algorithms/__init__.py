"""The registry of algorithms: one module each, with KIND and create(algorithm).

A new algorithm needs one line here.
"""

from importlib import import_module
from typing import Any

from sia_runner.schema.training import Algorithm
from sia_runner.training.algorithms.protocol import Offline, Online
from sia_runner.training.protocol import TrainingError

MODULES = {
    "ppo": "sia_runner.training.algorithms.ppo",
    "grpo": "sia_runner.training.algorithms.grpo",
    "entropic": "sia_runner.training.algorithms.entropic",
    "reinforce": "sia_runner.training.algorithms.reinforce",
    "best_of_n": "sia_runner.training.algorithms.best_of_n",
    "dpo": "sia_runner.training.algorithms.dpo",
}


def online(algorithm: Algorithm) -> Online:
    """Return the algorithm for the online driver. Raises TrainingError if it is offline, or its options are wrong."""
    return _create(algorithm, "online")


def offline(algorithm: Algorithm) -> Offline:
    """Return the algorithm for the offline driver. Raises TrainingError if it is online, or its options are wrong."""
    return _create(algorithm, "offline")


def _create(algorithm: Algorithm, kind: str) -> Any:
    module = import_module(MODULES[algorithm.algorithm])
    if kind != module.KIND:
        raise TrainingError(f"algorithm={algorithm.algorithm} is {module.KIND}; given: kind={kind}")
    return module.create(algorithm)
