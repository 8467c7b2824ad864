"""What the loop needs of the models room, and what its parts need of one another.

`Models` (room.py) is built once per process and run. It holds the keys, the ledger and the gateway's thread.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sia_runner.records import Door, Faults, Reply, Usage

Role = Literal["meta", "target"]  # who calls; each role has its provider
Scope = Literal["run", "generation", "grant"]


class ModelsError(Exception):
    """Models cannot be used as configured; the message is one line for the user (exit code 2)."""


class ProviderDown(Exception):
    """The provider refuses or does not answer, after all retries: nothing can be said about the candidate. The run
    stops and can be resumed. The message is one line without any key."""


class BudgetSpent(Exception):
    """A limit was reached before a call was sent. `scope` says whose: the run's, the generation's, or the grant's
    own."""

    def __init__(self, scope: Scope, message: str) -> None:
        super().__init__(message)
        self.scope: Scope = scope


class Crowded(Exception):
    """The limit is not reached, but would be if every call under way used all that is reserved for it: try again when
    one of them is settled."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to call models, for one purpose. Whoever holds its token (a random text that stands where an API key would)
    calls on its account: usage is kept per candidate, purpose, and (question, sample)."""

    role: Role
    generation: int  # whose budget it is; 0: of none (the final test, doctor)
    candidate: str  # gen_3, trial_1f2e..., as named in tables
    purpose: str  # propose | gate | trial | select | test | rollout; `test` may use what is kept in reserve
    trajectories: Path  # each finished call is a line appended to this file
    sample: int | None = None  # which of several runs over the same questions this is
    question: str | None = None  # set: every call of the token is for this question
    calls: int | None = None  # at most so many calls (the turn limit of a guest agent)
    adapter: Path | None = None  # of the policy: the adapter that answers; None: the base model
    live: bool = False  # of the policy: whatever weights it has now, as in the middle of training
    temperature: float | None = None  # set: forced, whatever a request says (rollouts)
    seed: str | None = None  # set: each call is sampled by (seed, question, how many of the question came before)


class Visit(Protocol):
    """One sandbox's stay at the gateway."""

    door: Door

    def usage(self) -> Usage: ...

    def faults(self) -> Faults: ...

    def trouble(self) -> Exception | None:
        """ProviderDown, or BudgetSpent of scope `run`, when calls of this visit failed for such a reason; else None."""
        ...


class Models(Protocol):
    def check(self) -> None:
        """Extras, keys, endpoints, model names. Under two seconds and before any heavy import. Raises ModelsError."""
        ...

    def admit(self, grant: Grant) -> AbstractContextManager[Visit]:
        """Let a sandbox in. When the context ends, its token is void and calls under way are cancelled and settled."""
        ...

    def chat(
        self, grant: Grant, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], **settings: Any
    ) -> Reply:
        """One call from this process, through the same retries, limits and ledger. Messages, tools and settings
        (temperature, max_tokens, ...) in the shape of OpenAI's chat completions. Blocks; safe from several threads.

        Raises ProviderDown, BudgetSpent, and ModelsError for a request that the provider calls invalid.
        """
        ...

    def policy(self) -> Any:
        """The model that harnesses call and that can be trained (models.policy.engine.Engine), loaded on first use.
        Raises ModelsError where the target agent has none."""
        ...

    def bury(self, jobs: Collection[str]) -> None:
        """These jobs of SLURM are over: what their gateways held of the budget is free."""
        ...

    def close(self) -> None:
        """End the gateway; what was reserved and not spent is returned. Safe to call twice."""
        ...


class Judged(Protocol):
    """Where one attempt's spending was reserved: settle it once, with what the provider said it used."""

    def settle(
        self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0
    ) -> float | None:
        """The attempt was answered. `input_tokens` include those read from the provider's cache and those written to
        it. Returns its price in US dollars; None where prices are not known."""
        ...

    def unanswered(self, *, sent: bool) -> None:
        """No answer came. `sent`: the provider may have charged for it, so it stays counted as a call without an
        answer, at what was reserved; otherwise the reservation is undone."""
        ...


class Ledger(Protocol):
    """All spending of a run (ledger.py): RUN/ledger/, one file per process, appended before and after each attempt,
    so that a kill loses nothing: an attempt that was announced and never settled is a call without an answer."""

    def reserve(self, grant: Grant, *, input_tokens: int, output_tokens: int) -> Judged:
        """Announce one attempt of at most so many tokens. Raises BudgetSpent or Crowded. Thread-safe; well below a
        millisecond. One call of a client takes several attempts where the first ones fail: each is announced, since
        each is a call that the provider sees."""
        ...

    def on_settled(self, wake: Callable[[], None]) -> None:
        """`wake` is called (from any thread) whenever a reservation ended, for those who were told Crowded."""
        ...

    def usage(self, *, generation: int | None = None, candidate: str | None = None) -> Usage:
        """Spent so far, attempts without an answer included at what was reserved for them; by all processes of the run,
        over all resumes."""
        ...
