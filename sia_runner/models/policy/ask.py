"""The requests to a policy and its answers, as plain data: this module imports no torch."""

import importlib.util
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from sia_runner.models.protocol import ModelsError
from sia_runner.records import Sampled

Messages = Sequence[Mapping[str, Any]]  # OpenAI's shape; contents are text
_PACKAGES = ("torch", "transformers", "peft", "litellm", "aiohttp")  # its last two: of the gateway in front of it


class PolicyError(ModelsError):
    """The policy cannot be loaded, built or adapted as configured; the message is one line for the user."""


class Live(Enum):
    """The live weights: those of the last `use`, or of the training in progress."""

    LIVE = "live"


LIVE = Live.LIVE
Weights = Path | None | Live  # an adapter's folder, the base alone, or whatever is live


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One dialogue to warm a tiny model on: the messages, and the expected answer."""

    messages: Messages
    answer: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a policy.

    Temperature 0 is greedy. `seed` None takes the next value of the engine's own counter.
    """

    messages: Messages
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    weights: Weights = LIVE


@dataclass(frozen=True, slots=True)
class Answer:
    """A policy's answer.

    `text` ends before a stop string and contains no special token; `sampled` has every sampled token.
    """

    text: str
    sampled: Sampled


class Answering(Protocol):
    """The interface between the gateway and a policy, in this process or at a vLLM server."""

    def start(self) -> Any:
        """Return the policy (training.protocol.Policy), ready to answer; the first call loads it.

        Raises PolicyError.
        """
        ...

    def submit(self, request: Ask) -> Future[Answer]:
        """Queue a request; `start` comes first. The future raises Failed."""
        ...

    def close(self) -> None:
        """Stop answering and free what the policy holds."""
        ...


def check_installed() -> None:
    """Raise PolicyError, with the names, if packages that a policy needs are missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PolicyError(f"a policy needs {' and '.join(missing)}; pip install 'sia-runner[training]'")
