"""The result of each stage as a record that the journal stores, with its keys in the order of the fields."""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Self, cast

from sia_runner.records import Json, Lever, OutcomeKind, Score, Status, Usage


@dataclass(frozen=True, slots=True)
class StageResult:
    """The base of all results. A key in `OPTIONAL` is left out of the JSON where its value is None, instead of null."""

    OPTIONAL: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> Json:
        """Return the record as JSON data."""
        values = {_key(item): getattr(self, item.name) for item in fields(self)}
        return {key: _encode(value) for key, value in values.items() if value is not None or key not in self.OPTIONAL}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` wrote, in this or an earlier version, which may have written fewer keys."""
        keys = {item.name: _key(item) for item in fields(cls)}
        return cls(**{name: _decode(key, data[key]) for name, key in keys.items() if key in data})


def _key(item: "Field[Any]") -> str:
    """Return the key in the JSON, which is the field's name unless its metadata gives an older one."""
    return item.metadata.get("key", item.name)


def _encode(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_encode(item) for item in cast("tuple[Any, ...]", value)]
    return value.to_json() if hasattr(value, "to_json") else value


def _decode(name: str, value: Any) -> Any:
    return value if value is None or name not in _DECODERS else _DECODERS[name](value)


@dataclass(frozen=True, slots=True)
class ProposeResult(StageResult):
    """A proposal as the journal keeps it; its files are in proposal.json."""

    OPTIONAL = frozenset({"partner", "model"})

    lever: Lever
    title: str
    rationale: str
    algorithm: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    usage: Usage = field(default_factory=Usage)
    parent: int | None = None
    siblings: tuple[Mapping[str, Any], ...] = ()  # every parallel proposal with its dev value, in order
    fault: str = ""  # one line when the proposer itself failed
    unscored: bool = False  # it failed because its budget was spent
    sha256: str = ""  # of proposal.json
    partner: int | None = None  # the generation that it merges with its parent
    model: str | None = None  # of several that are configured, the one that its proposer called


@dataclass(frozen=True, slots=True)
class TrainingResult(StageResult):
    """A finished weights update. Curves have one value a step, or a batch of rollouts."""

    OPTIONAL = frozenset({"drift_kl", "drift_share"})

    algorithm: Mapping[str, Any]  # the settings
    steps: int
    reward: tuple[float, ...]
    kl: tuple[float, ...]
    entropy: tuple[float, ...]
    stopped: str  # why it stopped early; empty otherwise
    tokens: int
    seconds: float
    # The sampler's drift from the learner; None at steps where it was not measured, and if it never was.
    drift_kl: tuple[float | None, ...] | None = None
    drift_share: tuple[float | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class BuildResult(StageResult):
    """A built candidate: hashes of harness and adapter. `fault` is one line when it cannot be built."""

    OPTIONAL = frozenset({"unscored"})

    fault: str
    sha256: str | None = None
    unscored: bool | None = None  # a fault that is not the candidate's
    training: TrainingResult | None = None  # its keys stand beside the others in the JSON
    adapter_sha256: str | None = None  # None where the base model alone answers

    def to_json(self) -> Json:
        """Return the record as JSON data; a faulty candidate has no key for an adapter."""
        data = StageResult.to_json(self)
        training: Json | None = data.pop("training")
        adapter = data.pop("adapter_sha256")
        return data | (training or {}) | ({} if self.fault else {"adapter_sha256": adapter})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BuildResult":
        """Return the record that `to_json` wrote."""
        training = TrainingResult.from_json(data) if "reward" in data else None
        return cls(data["fault"], data["sha256"], data.get("unscored"), training, data.get("adapter_sha256"))


@dataclass(frozen=True, slots=True)
class GateResult(StageResult):
    """A passed gate, or the `fault` that the candidate failed with."""

    OPTIONAL = frozenset({"unscored", "usage"})

    fault: str
    unscored: bool | None = None  # a fault that is not the candidate's
    usage: Usage | None = None  # None where no harness was run


@dataclass(frozen=True, slots=True)
class HarnessRun(StageResult):
    """One run of a harness, and the hashes of what it left."""

    OPTIONAL = frozenset({"faults_sha256"})

    ending: str  # see sandbox.protocol.Ending
    exit_code: int | None
    failure: str
    unanswered: OutcomeKind  # the kind of questions without an answer
    cpu_seconds: float
    peak_mb: float
    output_bytes: int
    usage: Usage | None  # None where no model could be called
    submission_sha256: str
    keys_sha256: str
    faults_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RunResult(StageResult):
    """The runs on dev + val, one or one per fold."""

    runs: tuple[HarnessRun, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class VerifyResult(StageResult):
    """The outcomes of val by kind, and their score; None where `failure` says why there is none."""

    outcomes: Mapping[str, int]
    val: Score | None
    failure: str
    unscored: bool  # not the candidate's failure
    scores_sha256: str


@dataclass(frozen=True, slots=True)
class Verdict(StageResult):
    """The decision about a candidate. `difference` is new - old on val in metric units; None without a score."""

    status: Status
    reason: str
    difference: float | None = None
    standard_error: float | None = None
    p_value: float | None = None

    def to_json(self) -> Json:
        """Return the record as JSON data; without a score it has status and reason only."""
        data = StageResult.to_json(self)
        return {name: data[name] for name in ("status", "reason")} if self.difference is None else data

    @property
    def accepted(self) -> bool:
        """True if the candidate is the new incumbent."""
        return self.status is Status.ACCEPTED


@dataclass(frozen=True, slots=True)
class PlanResult(StageResult):
    """The hashes of plan.md and plan.json."""

    sha256: str
    json_sha256: str


@dataclass(frozen=True, slots=True)
class TestResult(StageResult):
    """The run on test, with the official grade or medal of a task that has one."""

    __test__ = False  # for pytest: it is no test
    OPTIONAL = frozenset({"standing"})

    generation: int
    score: Score | None
    outcomes: Mapping[str, int]
    run: HarnessRun
    scores_sha256: str
    official_grade: Mapping[str, Any] | None = field(default=None, metadata={"key": "standing"})


_DECODERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("siblings", "reward", "kl", "entropy", "drift_kl", "drift_share"), tuple),
    **dict.fromkeys(("val", "score"), Score.from_json),
    "lever": Lever,
    "run": HarnessRun.from_json,
    "runs": lambda runs: tuple(map(HarnessRun.from_json, runs)),
    "status": Status,
    "unanswered": OutcomeKind,
    "usage": lambda usage: Usage(**usage),
}
