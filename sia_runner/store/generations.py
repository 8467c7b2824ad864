"""A generation as one record: read from the journaled results of its steps, or from its row of summary.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_runner.records import Json, Lever, PastGeneration, Score, Usage
from sia_runner.store.files import as_dict, as_int, as_number, as_text

GENERATION_STEPS = ("propose", "plan", "build", "gate", "run", "verify", "accept")


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A finished weights update. A curve has a value a step or rollout batch, None where that is not finite."""

    asked: int | None  # steps
    steps: int | None
    reward: list[float | None]
    kl: list[float | None]
    entropy: list[float | None]
    stopped: str
    tokens: int | None
    seconds: float | None
    drift_kl: list[float | None]  # of the sampler to the learner, nats per token; earlier versions kept neither
    drift_share: list[float | None]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "TrainingRecord | None":
        """Return the update of a row of summary.json, or of a journaled build; None if there is no reward."""
        if not isinstance(data.get("reward"), list):
            return None
        names = ("reward", "kl", "entropy", "drift_kl", "drift_share")
        curves = {name: [*map(as_number, data.get(name) or [])] for name in names}
        return TrainingRecord(
            asked=as_int(data["asked"] if "asked" in data else as_dict(data.get("algorithm")).get("steps")),
            steps=as_int(data.get("steps")),
            stopped=as_text(data.get("stopped")),
            tokens=as_int(data.get("tokens")),
            seconds=as_number(data.get("seconds")),
            **curves,
        )

    def to_json(self) -> Json:
        """Return the update as a row of summary.json has it: drift only where it was measured."""
        data = asdict(self)
        return {name: value for name, value in data.items() if value or not name.startswith("drift_")}


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A generation as the journal or summary.json tells it; what these leave out, or got wrong, has its default."""

    n: int
    status: str  # accepted, rejected, failed, unscored; without a verdict under way, or cut (its process is gone)
    lever: str = ""
    algorithm: str | None = None
    title: str = ""
    rationale: str = ""
    reason: str = ""
    parent: int | None = None  # the generation whose harness it extended
    partner: int | None = None  # the generation that it was to merge with its parent
    model: str = ""  # of several that are configured, the one that its proposer called
    val: Score | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])  # of val
    difference: float | None = None  # to the incumbent at that time, with its standard error and p
    standard_error: float | None = None
    p_value: float | None = None
    training: TrainingRecord | None = None
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])  # of each step that is done
    usage: Mapping[str, Any] | None = None  # of models; the ledger's, so it is not in the journal
    step: str = ""  # under way
    since: str = ""  # ISO 8601
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Json])  # the journaled result of each step

    @staticmethod
    def of(
        n: int,
        steps: Mapping[str, Mapping[str, Any]],
        seconds: Mapping[str, Any],
        started: Mapping[str, str] | None = None,
        *,
        alive: bool = False,
    ) -> "GenerationRecord":
        """Return the generation with these results. `started`: its steps under way; `alive`: of a living process."""
        proposal, verdict, verified = (steps.get(step, {}) for step in ("propose", "accept", "verify"))
        step, since = ("", "") if verdict else next(iter((started or {}).items()), ("", ""))
        algorithm = proposal.get("algorithm")
        return GenerationRecord(
            n=n,
            status=str(verdict.get("status") or ("under way" if alive else "cut")),
            lever=str(proposal.get("lever") or ""),
            algorithm=None if algorithm is None else str(algorithm),
            title=str(proposal.get("title") or ""),
            rationale=str(proposal.get("rationale") or ""),
            reason=str(verdict.get("reason") or ""),
            parent=as_int(proposal.get("parent")),
            partner=as_int(proposal.get("partner")),
            model=as_text(proposal.get("model")),
            val=Score.parse(verified.get("val")),
            outcomes=parse_counts(verified.get("outcomes")),
            difference=as_number(verdict.get("difference")),
            standard_error=as_number(verdict.get("standard_error")),
            p_value=as_number(verdict.get("p_value")),
            training=TrainingRecord.from_json(steps.get("build", {})),
            seconds={name: as_number(seconds[name]) or 0.0 for name in GENERATION_STEPS if name in seconds},
            step=step,
            since=since,
            steps=steps,
        )

    @staticmethod
    def from_summary_row(row: Mapping[str, Any]) -> "GenerationRecord":
        """Return the generation of a row of summary.json, whatever version wrote it."""
        steps = {"propose": row, "build": as_dict(row.get("training")), "verify": row, "accept": row}
        record = GenerationRecord.of(int(row["n"]), steps, as_dict(row.get("seconds")))
        return replace(record, usage=as_dict(row.get("usage")), steps={})

    def summary_row(self) -> Json:
        """Return the row of summary.json."""
        return {
            "n": self.n,
            "lever": self.lever,
            "algorithm": self.algorithm,
            "title": self.title,
            "status": self.status,
            "reason": self.reason,
            "parent": self.parent,
            **({"partner": self.partner} if self.partner is not None else {}),
            **({"model": self.model} if self.model else {}),
            "val": self.val and self.val.to_json(),
            "outcomes": dict(self.outcomes),
            "training": self.training and self.training.to_json(),
            "seconds": {step: seconds for step, seconds in self.seconds.items() if step != "plan"},
            "usage": self.usage,
        }

    def to_past_generation(self) -> PastGeneration:
        """Return what a proposer may see of this generation."""
        return PastGeneration(
            self.n,
            Lever(self.lever),
            self.title,
            self.status,
            self.reason,
            self.val,
            notes=self.steps["propose"]["notes"],
            parent=self.parent,
            partner=self.partner,
            model=self.model,
            difference=self.difference,
            standard_error=self.standard_error,
            usage=self._journaled_usage(),
        )

    def _journaled_usage(self) -> Usage:
        """Return what proposer, gate and run used; unlike the ledger, the same after any number of resumes."""
        usages = [as_dict(self.steps.get(step, {}).get("usage")) for step in ("propose", "gate", "run")]
        return sum((Usage(**usage) for usage in usages), Usage())


SIA_H, SIA_WH, NO_MODEL = "SIA-H", "SIA-W+H", "SIA-H, no model"
CONTROL = "control-"  # the labels of control arms begin with it


def weights_were_tried(generations: Sequence[GenerationRecord]) -> bool:
    """Return whether an update of the weights was begun and ended, well or not."""
    return any(g.lever in (Lever.WEIGHTS, Lever.BOTH) and "build" in g.steps for g in generations)


def earned_mode(configured: str, generations: Sequence[GenerationRecord], run: Path) -> str:
    """Return the label of a run by what was done in it; a control arm's, and before the first run, the configured."""
    if weights_were_tried(generations):
        return SIA_WH
    called = harness_called_model(generations, run)
    if called is None or configured.startswith(CONTROL):
        return configured
    return SIA_H if called else NO_MODEL


def harness_called_model(generations: Sequence[GenerationRecord], run: Path) -> bool | None:
    """Return whether a harness called a model; None before the first one ran."""
    usages = [as_dict(g.steps["run"].get("usage")) for g in generations if "run" in g.steps]
    if not usages:
        return None
    # answers from the cache cost no call, but leave a trajectory
    return any(usage.get("calls") for usage in usages) or any(run.glob("gen_*/**/trajectories.jsonl"))


def parse_counts(value: Any) -> dict[str, int]:
    """Return outcome kind -> count, without entries that are no integers."""
    return {str(kind): count for kind, count in as_dict(value).items() if isinstance(count, int)}
