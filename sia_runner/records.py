"""Plain data that the components exchange, and its JSON. Imports no other module of the package."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

Json = dict[str, Any]  # a JSON object


def as_object(value: Any) -> Json:
    """Return `value` if it is a JSON object, else an empty one."""
    return cast(Json, value) if isinstance(value, dict) else {}


class Lever(StrEnum):
    """The part of a candidate that a generation changes."""

    HARNESS = "harness"
    WEIGHTS = "weights"
    BOTH = "both"
    STOP = "stop"


class Stage(StrEnum):
    """The stages of a generation and of the final test; a build that trains weights runs as a job of its own kind."""

    PROPOSE = "propose"
    PLAN = "plan"
    BUILD = "build"
    TRAIN = "train"
    GATE = "gate"
    RUN = "run"
    VERIFY = "verify"
    ACCEPT = "accept"
    TEST = "test"


class Status(StrEnum):
    """The verdict on a candidate; an unscored one had no fair chance."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"
    UNSCORED = "unscored"


class RunStatus(StrEnum):
    """The state of a run in its summary."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    BUDGET = "budget"
    INTERRUPTED = "interrupted"


class OutcomeKind(StrEnum):
    """The result kind of one question; code that counts outcomes handles all of them."""

    CORRECT = "correct"
    WRONG = "wrong"
    PARTIAL = "partial"
    NO_ANSWER = "no_answer"
    INVALID_FORMAT = "invalid_format"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"  # the machine ran out of memory
    TRUNCATED = "truncated"
    RATE_LIMITED = "rate_limited"
    REFUSED = "refused"
    BUDGET = "budget"
    VERIFIER_ERROR = "verifier_error"


# Not the harness's fault: such a question does not count as wrong; it makes the candidate `unscored`.
INFRASTRUCTURE_KINDS = frozenset(
    {OutcomeKind.KILLED, OutcomeKind.RATE_LIMITED, OutcomeKind.REFUSED, OutcomeKind.BUDGET, OutcomeKind.VERIFIER_ERROR}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one question: `unit` is the question's own id, `value` in metric units (1.0 correct, 0.0 not)."""

    unit: str
    kind: OutcomeKind
    value: float
    prediction: str = ""  # the answer, cut to a few hundred characters; shown for dev questions only

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON data."""
        return {"unit": self.unit, "kind": self.kind.value, "value": self.value, "prediction": self.prediction}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Outcome":
        """Return the outcome that `to_json` wrote."""
        return Outcome(data["unit"], OutcomeKind(data["kind"]), data["value"], data["prediction"])


@dataclass(frozen=True, slots=True)
class Score:
    """An aggregate over `n` questions with its 95% confidence interval."""

    value: float
    ci95: tuple[float, float]
    n: int

    def to_json(self) -> Json:
        """Return the record as JSON data."""
        return {"value": self.value, "ci95": list(self.ci95), "n": self.n}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Score":
        """Return the score that `to_json` wrote."""
        low, high = data["ci95"]
        return Score(float(data["value"]), (float(low), float(high)), int(data["n"]))

    @staticmethod
    def parse(data: Any) -> "Score | None":
        """Return the score if `data` is one with finite numbers, or None for anything else."""
        try:
            score = Score.from_json(data)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return score if all(map(math.isfinite, (score.value, *score.ci95))) else None

    def __str__(self) -> str:
        """Return ``0.781 [0.753, 0.806] (n=913)``."""
        return f"{self.value:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}] (n={self.n})"


def score_columns(name: str, score: Score | None) -> Json:
    """Return a score as columns of a table: NAME, NAME_low, NAME_high and NAME_n; all None without a score."""
    values = (score.value, *score.ci95, score.n) if score else (None,) * 4
    return dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_n"), values, strict=True))


@dataclass(frozen=True, slots=True)
class Usage:
    """The spending on models: US dollars, tokens, calls."""

    usd: float = 0.0
    tokens: int = 0
    calls: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.usd + other.usd, self.tokens + other.tokens, self.calls + other.calls)

    def to_json(self) -> Json:
        """Return the record as JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """The address of the gateway for a sandbox: a Unix socket of the host, and environment variables."""

    socket: Path
    env: Mapping[str, str]  # in its values the sandbox puts its relay's address, http://127.0.0.1:PORT, for {url}


@dataclass(frozen=True, slots=True)
class CallFailures:
    """The failed and truncated model calls of one harness run, as the gateway saw them. Ids are those of the view.

    `questions` maps the question that calls named to `rate_limited`, `refused` or `budget` if one of its requests was
    never answered; else to `truncated`, `timeout` or `no_answer` if its last answer was cut, not waited for, or refused
    through the harness's own fault. `untagged` counts each kind for calls that named no question. `words` holds what
    the other side said, by kind; None in files of earlier versions.
    """

    questions: Mapping[str, OutcomeKind] = field(default_factory=dict[str, OutcomeKind])
    untagged: Mapping[OutcomeKind, int] = field(default_factory=dict[OutcomeKind, int])
    words: Mapping[OutcomeKind, str] | None = field(default_factory=dict[OutcomeKind, str])

    def to_json(self) -> Json:
        """Return the record as JSON data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "CallFailures":
        """Return the failures that `to_json` wrote."""
        return CallFailures(
            {question: OutcomeKind(kind) for question, kind in data["questions"].items()},
            {OutcomeKind(kind): int(count) for kind, count in data["untagged"].items()},
            {OutcomeKind(kind): text for kind, text in data["words"].items()} if "words" in data else None,
        )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call in a model's answer."""

    id: str
    name: str
    arguments: str  # unchecked text of the model, normally JSON


@dataclass(frozen=True, slots=True)
class ModelReply:
    """One answer of a model; `message` is the assistant message to append to the next request (OpenAI's format)."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str  # stop | length | tool_calls | content_filter
    message: Mapping[str, Any]
    usage: Usage


@dataclass(frozen=True, slots=True)
class SampledCall:
    """One model call as the policy sampled it: the same record in memory and on disk."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # natural, of each completion token under the distribution it was sampled from
    finish_reason: str  # stop | length
    adapter: str  # the version of the weights, "base" without an adapter
    text: str = ""  # which the client gets: it ends before a stop string and contains no special token
    tool_calls: tuple[Mapping[str, str], ...] = ()  # id, name, arguments (JSON), of tools that the request offered
    billed: int | None = None  # tokens that a service generated, where it goes on after a stop string; None: no more

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON data, without what was billed, text and tool calls: a file keeps the response."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("text", "tool_calls", "billed")}


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The model calls of one rollout (one run of a harness on one question), in order, and its reward."""

    unit: str
    sample: int  # index of the rollout in its group
    calls: tuple[SampledCall, ...]
    reward: float | None  # None after a failure that is not the policy's fault: that is no reward of zero
    kind: OutcomeKind

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Trajectory":
        """Return the trajectory that `asdict` made JSON data."""
        calls: list[SampledCall] = []
        for call in data["calls"]:
            tokens = tuple(call["prompt_ids"]), tuple(call["completion_ids"]), tuple(call["logprobs"])
            calls.append(
                SampledCall(*tokens, call["finish_reason"], call["adapter"], call["text"])
            )  # what is learned from
        return Trajectory(data["unit"], data["sample"], tuple(calls), data["reward"], OutcomeKind(data["kind"]))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed candidate. The runner sets `parent`, `partner` and `evidence`, whatever a proposer says."""

    lever: Lever
    rationale: str
    files: Mapping[str, str] = field(default_factory=dict[str, str])  # relative path -> text: a complete new harness
    title: str = ""  # one line for tables
    improvement: str = ""  # markdown for gen_<n>/improvement.md
    algorithm: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the proposer's memory: the history has it
    usage: Usage = field(default_factory=Usage)
    parent: int | None = None  # the generation that it extends
    partner: int | None = None  # the generation that it merges with that
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what the run knew and measured then

    @property
    def trains_weights(self) -> bool:
        """True for a weights update."""
        return self.lever in (Lever.WEIGHTS, Lever.BOTH)

    def to_json(self) -> Json:
        """Return the record as JSON data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Proposal":
        """Return the proposal that `to_json` wrote."""
        fields: Json = {**data, "lever": Lever(data["lever"]), "usage": Usage(**data["usage"])}
        return Proposal(**fields)


@dataclass(frozen=True, slots=True)
class PastGeneration:
    """One finished generation as a proposer sees it: no gold answers, no per-question val outcomes."""

    n: int
    lever: Lever
    title: str
    status: str  # a Status
    reason: str
    val: Score | None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    parent: int | None = None  # the generation whose harness it extended
    partner: int | None = None  # the generation whose strengths it was to merge with the parent's
    model: str = ""  # the proposer's, where several are configured
    difference: float | None = None  # new - old on val, in metric units; None where it was not compared
    standard_error: float | None = None  # of the difference
    usage: Usage = field(default_factory=Usage)  # of its proposer's model, its gate and its run


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of trying a harness on dev questions before proposing it."""

    value: float  # mean metric over `n` dev questions; 0.0 when the harness failed
    n: int
    seconds: float
    failure: str = ""  # one line; empty when it ran
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])  # count of each kind
    examples: tuple[Mapping[str, Any], ...] = ()  # some dev questions that were not fully correct, with gold
    output: str = ""  # the tail of what the harness printed


def count_kinds(outcomes: Iterable[Outcome | Trajectory]) -> dict[str, int]:
    """Count the outcomes, or trajectories, of each kind, in the enum's order, without kinds that do not occur."""
    kinds = [outcome.kind for outcome in outcomes]
    return {kind.value: kinds.count(kind) for kind in OutcomeKind if kind in kinds}
