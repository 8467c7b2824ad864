"""The permission to call models, and the errors that end it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sia_runner.errors import RunnerError

# The caller; each role has its own provider. `learner`: training at a service, which is no call of a harness.
Role = Literal["meta", "target", "learner"]
ModelKey = Role | tuple[Role, str]  # a role, or one of its models by name where it has several
Scope = Literal["run", "generation", "grant"]


class ModelsError(RunnerError):
    """Models cannot be used as configured; the message is one line for the user (exit code 2)."""


class ProviderDown(Exception):
    """The provider refuses or does not answer, after all retries: the run stops. The message holds no key."""


class BudgetSpent(Exception):
    """A limit is reached before a call is sent; `scope` is the run, the generation or the grant."""

    def __init__(self, scope: Scope, message: str) -> None:
        super().__init__(message)
        self.scope: Scope = scope


class BudgetFullyReserved(Exception):
    """The limit would be passed if every call under way used its whole reservation: retry when one is settled."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The permission to call models for one purpose; whoever holds its token, in place of a key, uses its account."""

    role: Role
    generation: int  # the generation that pays; 0: none (final test, doctor)
    candidate: str  # gen_3, trial_1f2e..., as named in tables
    purpose: str  # propose | gate | trial | select | test | rollout | train; `test` may use the reserve
    # Each finished call is a line appended to this file. None: a policy's calls stay in memory (rollouts).
    trajectories: Path | None
    sample: int | None = None  # index among several runs over the same questions
    question: str | None = None  # set: every call of the token is for this question
    calls: int | None = None  # maximum number of calls (a guest agent's turn limit)
    adapter: Path | None = None  # policy only: the adapter that answers; None: the base model
    live: bool = False  # policy only: use the current weights, in the middle of training
    temperature: float | None = None  # set: overrides the request (rollouts)
    seed: str | None = None  # set: each call is seeded by (seed, question, number of earlier calls for it)
    model: str | None = None  # meta only: another model of the provider; None: the role's own

    @property
    def model_key(self) -> ModelKey:
        """The key of the model that answers."""
        return (self.role, self.model) if self.model else self.role
