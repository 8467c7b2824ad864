"""The access to models that the runner uses: grants, sessions and the errors that end them.

`ModelAccess` is built once per process and run (`GatewayService`). It holds the keys, the ledger and the gateway's
thread.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sia_runner.errors import RunnerError
from sia_runner.records import CallFailures, GatewayAddress, ModelReply, SampledCall, Usage

Role = Literal["meta", "target"]  # the caller; each role has its own provider
Scope = Literal["run", "generation", "grant"]


class ModelsError(RunnerError):
    """Models cannot be used as configured; the message is one line for the user (exit code 2)."""


class ProviderDown(Exception):
    """The provider refuses or does not answer, after all retries.

    This says nothing about the candidate: the run stops and can be resumed. The message is one line without any key.
    """


class BudgetSpent(Exception):
    """A limit is reached before a call is sent; `scope` is the run, the generation or the grant."""

    def __init__(self, scope: Scope, message: str) -> None:
        super().__init__(message)
        self.scope: Scope = scope


class BudgetFullyReserved(Exception):
    """The limit would be passed if every call under way used its whole reservation: retry when one is settled."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The permission to call models for one purpose.

    Whoever holds its token (a random text in place of an API key) calls on its account: usage is kept per candidate,
    purpose, and (question, sample).
    """

    role: Role
    generation: int  # the generation that pays; 0: none (final test, doctor)
    candidate: str  # gen_3, trial_1f2e..., as named in tables
    purpose: str  # propose | gate | trial | select | test | rollout; `test` may use the reserve
    # Each finished call is a line appended to this file. None: a policy's calls stay in memory (rollouts).
    trajectories: Path | None
    sample: int | None = None  # index among several runs over the same questions
    question: str | None = None  # set: every call of the token is for this question
    calls: int | None = None  # maximum number of calls (a guest agent's turn limit)
    adapter: Path | None = None  # policy only: the adapter that answers; None: the base model
    live: bool = False  # policy only: use the current weights, in the middle of training
    temperature: float | None = None  # set: overrides the request (rollouts)
    seed: str | None = None  # set: each call is seeded by (seed, question, number of earlier calls for it)


class ModelSession(Protocol):
    """One sandbox's session at the gateway."""

    door: GatewayAddress

    @property
    def sampled(self) -> Mapping[str, Sequence[SampledCall]]:
        """A policy's answers by question, in the order of finishing, where the grant has no file for them."""
        ...

    def usage(self) -> Usage:
        """Return the spending of the session so far."""
        ...

    def faults(self) -> CallFailures:
        """Return the failed calls, by question and untagged."""
        ...

    def trouble(self) -> Exception | None:
        """Return the ProviderDown or run-wide BudgetSpent that made calls of this session fail; else None."""
        ...


class ModelAccess(Protocol):
    """Gives the runner and its sandboxes access to models."""

    def check(self) -> None:
        """Check packages, keys, endpoints and model names, before any heavy import. Raises ModelsError."""
        ...

    def open_session(self, grant: Grant) -> AbstractContextManager[ModelSession]:
        """Open a session. At the context's end its token is void; calls under way are cancelled and settled."""
        ...

    def chat(
        self, grant: Grant, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], **settings: Any
    ) -> ModelReply:
        """Make one call from this process, through the same retries, limits and ledger. Blocks; thread-safe.

        Messages, tools and settings (temperature, max_tokens, ...) have the shape of OpenAI's chat completions. Raises
        ProviderDown, BudgetSpent, and ModelsError for a request that the provider calls invalid.
        """
        ...

    def policy(self) -> Any:
        """Return the model that is trained, loaded on first use. Raises ModelsError where there is none."""
        ...

    def release_allowances(self, jobs: Collection[str]) -> None:
        """Free the budget that gateways of these SLURM jobs hold: the jobs are over."""
        ...

    def close(self) -> None:
        """End the gateway and return unspent budget. Safe to call twice."""
        ...
