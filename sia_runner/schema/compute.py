"""The schema of conf/compute/*.yaml says where stages run, and with what resources."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from sia_runner.schema.parts import Component, Count, NonEmptyText, Part, Positive


class Resources(Part):
    """The resources requested from sbatch for one kind of stage.

    A key that is null takes the value of `default`; null there means the cluster's own default.
    """

    where: Literal["job", "driver"] | None = None  # driver: no job, the stage runs where the loop runs
    partition: NonEmptyText | None = None
    account: NonEmptyText | None = None
    qos: NonEmptyText | None = None
    cpus: Count | None = None
    memory_gb: Positive | None = None
    gpus: Annotated[int, Field(ge=0)] | NonEmptyText | None = None  # a number, or a value of --gres=gpu:…, like a100:2
    minutes: Count | None = None
    constraint: NonEmptyText | None = None
    reservation: NonEmptyText | None = None
    nodelist: NonEmptyText | None = None
    exclude: NonEmptyText | None = None
    setup: list[str] | None = None  # shell lines before Python starts: module load …
    extra: dict[NonEmptyText, str | int | bool] | None = None  # any other option of sbatch, by its long name

    def over(self, default: "Resources") -> "Resources":
        """Return these resources, with `default` for the keys that are null."""
        values = {key: value for key, value in self.model_dump().items() if value is not None}
        return Resources.model_validate(default.model_dump() | values)


class ByKind(Part):
    """The resources of each kind of stage."""

    default: Resources = Field(default_factory=Resources)
    propose: Resources = Field(default_factory=Resources)  # also the trials and probes of the proposer
    gate: Resources = Field(default_factory=Resources)
    run: Resources = Field(default_factory=Resources)
    verify: Resources = Field(default_factory=Resources)
    train: Resources = Field(default_factory=Resources)
    test: Resources = Field(default_factory=Resources)

    def of(self, kind: str) -> Resources:
        """Return the resources of stages of this kind."""
        resources: Resources = getattr(self, kind)
        return resources.over(self.default)


class InProcess(Component):
    """Settings of `inline`, or of a class of the user's own."""

    workers: Count = 1  # sandboxes that run in parallel


class Local(InProcess):
    """Settings of `local`: each stage is a process on this machine."""

    jobs: Count = 2  # maximum number of jobs in parallel
    pool: Count | None = None  # lasting workers for gate, run and verify, beside the jobs; null: a job for each step


class Slurm(InProcess):
    """Settings of `slurm`: each stage is a SLURM job."""

    site: NonEmptyText = "none"  # the profile of compute/site/ that set partitions and accounts
    warn_seconds: Annotated[int, Field(ge=5)] = 90  # seconds before its time limit at which a job gets USR2
    resources: ByKind = Field(default_factory=ByKind)
    pool: Count | None = None  # lasting workers with `run`'s resources for gate, run and verify; null: a job each

    @field_validator("resources")
    @classmethod
    def _has_limit(cls, value: ByKind) -> ByKind:
        if value.default.minutes is None:
            raise ValueError("default.minutes is needed: without a time limit a lost job would occupy its node")
        return value


def _compute_schema(compute: Any) -> str:
    target = str(compute.get("_target_") if isinstance(compute, dict) else compute.target)
    schemas = {f"sia_runner.compute.{name.lower()}.{name}": name for name in ("Local", "Slurm")}
    return schemas.get(target, "InProcess")


Compute = Annotated[
    Annotated[InProcess, Tag("InProcess")] | Annotated[Local, Tag("Local")] | Annotated[Slurm, Tag("Slurm")],
    Discriminator(_compute_schema),
]
