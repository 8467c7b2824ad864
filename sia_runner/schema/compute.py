"""The part of the schema that says where stages run, and with what resources."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from sia_runner.schema.parts import Component, Count, Part, Positive

Text = Annotated[str, Field(min_length=1)]


class Resources(Part):
    """What sbatch is asked for. What a kind of stage does not say, it takes from `default`; null there: the cluster's
    own default."""

    where: Literal["job", "driver"] | None = None  # driver: no job, the stage runs where the loop runs
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    cpus: Count | None = None
    memory_gb: Positive | None = None
    gpus: Annotated[int, Field(ge=0)] | Text | None = None  # how many, or what --gres=gpu:… takes: a100:2
    minutes: Count | None = None
    constraint: Text | None = None
    reservation: Text | None = None
    nodelist: Text | None = None
    exclude: Text | None = None
    setup: list[str] | None = None  # shell lines before Python starts: module load …
    extra: dict[Text, str | int | bool] | None = None  # any other option of sbatch, by its long name

    def over(self, default: "Resources") -> "Resources":
        """These, and what they leave open from `default`."""
        own = {key: value for key, value in self.model_dump().items() if value is not None}
        return Resources.model_validate(default.model_dump() | own)


class ByKind(Part):
    """Resources of each kind of stage."""

    default: Resources = Field(default_factory=Resources)
    propose: Resources = Field(default_factory=Resources)  # and the trials and probes of the proposer
    gate: Resources = Field(default_factory=Resources)
    run: Resources = Field(default_factory=Resources)
    verify: Resources = Field(default_factory=Resources)
    train: Resources = Field(default_factory=Resources)
    test: Resources = Field(default_factory=Resources)

    def of(self, kind: str) -> Resources:
        own: Resources = getattr(self, kind)
        return own.over(self.default)


class InProcess(Component):
    """`inline`, or a class of the user's own."""

    workers: Count = 1  # sandboxes at work at the same time


class Local(InProcess):
    jobs: Count = 2  # at most so many at once
    pool: Count | None = None  # so many workers for gate, run and verify, beside the jobs; null: a job for each step


class Slurm(InProcess):
    site: Text = "none"  # which profile of compute/site/ filled in partitions and accounts
    warn_seconds: Annotated[int, Field(ge=5)] = 90  # how long before its time limit a job is told (USR2)
    resources: ByKind = Field(default_factory=ByKind)
    pool: Count | None = None  # so many workers, of `run`'s resources, for gate, run and verify; null: a job each

    @field_validator("resources")
    @classmethod
    def _has_limit(cls, value: ByKind) -> ByKind:
        if value.default.minutes is None:
            raise ValueError("default.minutes is needed: without a time limit a lost job would hold its node")
        return value


def _which(compute: Any) -> str:
    target = str(compute.get("_target_") if isinstance(compute, dict) else compute.target)
    ours = {f"sia_runner.compute.{name.lower()}.{name}": name for name in ("Local", "Slurm")}
    return ours.get(target, "InProcess")


Compute = Annotated[
    Annotated[InProcess, Tag("InProcess")] | Annotated[Local, Tag("Local")] | Annotated[Slurm, Tag("Slurm")],
    Discriminator(_which),
]
