"""The requests to a policy and its answers, as plain data: this module imports no torch."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from sia_runner.records import SampledCall
from sia_runner.wire.grants import ModelsError

Messages = Sequence[Mapping[str, Any]]  # OpenAI's shape; contents are text
_POLICY_PACKAGES = ("torch", "transformers", "peft", "litellm", "aiohttp")  # the last two: of the gateway
_TINKER_PACKAGES = ("tinker", "transformers", "safetensors", "litellm", "aiohttp")


class PolicyError(ModelsError):
    """The policy cannot be loaded, built or adapted as configured; the message is one line for the user."""


class LiveWeights(Enum):
    """The live weights: those of the last `use`, or of the training in progress."""

    LIVE = "live"


LIVE_WEIGHTS = LiveWeights.LIVE
WeightsSource = Path | None | LiveWeights  # an adapter's folder, the base alone, or whatever is live
# (prefill, trained) tokens of one training call -> a context that reserves them before and settles them after it
TrainingCharge = Callable[[int, int], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class WarmupDialogue:
    """One dialogue to warm a tiny model on: the messages, and the expected answer."""

    messages: Messages
    answer: str


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """One request to a policy; temperature 0 is greedy, and `seed` None takes the engine's own counter."""

    messages: Messages
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    weights: WeightsSource = LIVE_WEIGHTS
    tools: Sequence[Mapping[str, Any]] = ()  # in OpenAI's shape, for the chat template
    reasoning_effort: str | None = None  # for the chat template: low | medium | high


class PolicyService(Protocol):
    """The interface between the gateway and a policy, in this process or at a vLLM server."""

    def start(self) -> Any:
        """Return the TrainablePolicy (training.protocol), loaded by the first call. Raises PolicyError."""
        ...

    def submit(self, request: PolicyRequest) -> Future[SampledCall]:
        """Queue a request; `start` comes first. The future raises CallError."""
        ...

    def close(self) -> None:
        """Stop answering and free what the policy holds."""


def check_policy_packages() -> None:
    """Raise PolicyError, with the names, if packages that a policy needs are missing."""
    _check_packages(_POLICY_PACKAGES, "training")


def check_tinker_packages() -> None:
    """Raise PolicyError, with the names, if packages that backend=tinker needs are missing."""
    _check_packages(_TINKER_PACKAGES, "tinker")


def _check_packages(names: Sequence[str], extra: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise PolicyError(f"a policy needs {' and '.join(missing)}; pip install 'sia-runner[{extra}]'")
