"""What is asked of a policy, and what it answers. Plain data: no torch here."""

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
    """The policy cannot be loaded, built or adapted as asked; the message is one line for the user."""


class Live(Enum):
    """The weights as they are now: those of the last `use`, or of the training that is under way."""

    LIVE = "live"


LIVE = Live.LIVE
Weights = Path | None | Live  # an adapter's folder, the base alone, or whatever is live


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One example to warm on: what is said to the model, and what it should answer."""

    messages: Messages
    answer: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. Temperature 0 is greedy; `seed` None: the next of the engine's own counter."""

    messages: Messages
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    weights: Weights = LIVE


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` ends before a stop string and shows no special token; `sampled` is all that was drawn."""

    text: str
    sampled: Sampled


class Answering(Protocol):
    """What the gateway asks: Batching in front of an engine in this process, or Remote in front of a server."""

    def start(self) -> Any:
        """The policy (training.protocol.Policy), ready to answer; loaded on the first call. Raises PolicyError."""
        ...

    def submit(self, ask: Ask) -> Future[Answer]:
        """After `start`. Raises Failed in the future."""
        ...

    def close(self) -> None: ...


def check_installed() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PolicyError(f"a policy needs {' and '.join(missing)}; pip install 'sia-runner[training]'")
