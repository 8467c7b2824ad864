"""The schemas of conf/provider, conf/sandbox, conf/compute and conf/tracker. A new provider is a YAML, no code."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Tag,
    field_validator,
    model_validator,
)

from sia_runner.config.base import (
    ComponentConfig,
    ConfigSection,
    CustomComponentConfig,
    NamedConfig,
    NonEmptyText,
    PositiveInt,
    schema_by_class,
)


class TokenPrices(ConfigSection):
    """Prices in US dollars per million tokens; they take precedence over litellm's table."""

    input: NonNegativeFloat  # per million input tokens
    output: NonNegativeFloat  # per million output tokens
    cached_input: NonNegativeFloat | None = None  # null: the price of input


class OfflineProvider(NamedConfig):
    """The choice of no provider."""

    kind: Literal["offline"]  # no model can be called


class HostedProvider(NamedConfig):
    """An HTTP endpoint that serves models: a company's, a cluster's, or a server on this machine."""

    kind: Literal["hosted"]  # a model can be called
    # the endpoint's protocol: its requests pass through unchanged, litellm translates all others;
    # `litellm`: it translates every request
    api: Literal["openai", "anthropic", "litellm"]
    litellm: str  # litellm's name of the provider, the part before the slash in its model names
    model: NonEmptyText  # the model's name at the provider
    base_url: str | None = None  # up to and including /v1; null: litellm's own address of the provider
    key: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None  # environment variable; null: needs none
    key_file: str | None = None  # read where the variable is not set; its first line is the key
    concurrency: PositiveInt = 16  # calls in parallel, per process
    timeout: PositiveFloat = 120.0  # seconds of one attempt, to its last byte
    attempts: PositiveInt = 5  # of one call, after transient errors
    max_wait_seconds: PositiveFloat = 60.0  # seconds: the longest wait between two attempts, a Retry-After included
    max_tokens: PositiveInt = 8192  # completion bound of a request that names none
    cache: bool = False  # keep answers on disk, keyed by the whole request
    prices: TokenPrices | None = None  # null: litellm's table, if it has the model
    headers: dict[str, str] = Field(default_factory=dict)  # further HTTP headers

    @model_validator(mode="after")
    def _address(self) -> "HostedProvider":
        if self.api != "litellm" and not self.base_url:
            raise ValueError(f"api={self.api} needs base_url, the address up to and including /v1")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={self.base_url}: must begin with http:// or https://")
        return self


ProviderConfig = Annotated[OfflineProvider | HostedProvider, Discriminator("kind")]


class BaseSandboxConfig(ComponentConfig):
    """Settings of any sandbox class: the limits that all of them have."""

    memory_mb: Annotated[int, Field(ge=64)] = 4096  # of all processes together
    processes: Annotated[int, Field(ge=4)] = 128  # processes and threads at the same time
    disk_mb: PositiveInt = 512  # of work/
    file_mb: PositiveInt = 256  # of one file
    output_kb: Annotated[int, Field(ge=1, le=1024 * 1024)] = 1024  # kept of stdout and stderr
    cpus: PositiveInt = 1  # processors that the harness may use
    allow_installs: bool = False  # may a harness bring requirements.txt?


class ImageSandboxConfig(BaseSandboxConfig):
    """Settings of a sandbox from a container image, which holds every package that a harness can use."""

    image: NonEmptyText  # name of the image, or path of a .sif file

    @field_validator("allow_installs")
    @classmethod
    def _image_holds_all(cls, value: bool) -> bool:
        if value:
            advice = "with an image, build the packages into it; allowed: false"
            raise ValueError(f"true needs a Python of this machine; {advice}")
        return value


class DockerConfig(ImageSandboxConfig):
    """Settings of `docker`."""

    gpus: Annotated[int, Field(ge=-1)] = 0  # number of GPUs; -1: all
    require_limits: bool = True  # refuse an engine that does not enforce limits; false: sample usage, and report that


class ApptainerConfig(ImageSandboxConfig):
    """Settings of `apptainer`."""

    gpus: Annotated[int, Field(ge=-1, le=0)] = 0  # -1: all GPUs of the job


class SshConfig(BaseSandboxConfig):
    """Settings of `ssh`. Paths and names hold only characters without a meaning for OpenSSH and shells."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]  # name or address
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]  # who runs harnesses there
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    # file of a private key; null: the agent's keys, or OpenSSH's default files
    identity: Annotated[str, Field(pattern=r"^[\w/.~@ -]+$")] | None = None
    known_hosts: Annotated[str, Field(pattern=r"^[\w/.~@ -]+$")] = "~/.ssh/known_hosts"  # must hold the host's key
    python: Annotated[str, Field(pattern=r"^[\w/.+-]+$")] = "python3"  # of the host: 3.11 or newer
    # on the host: each job has a folder of its own in it
    folder: Annotated[str, Field(pattern=r"^/[\w/.-]+$", max_length=48)] = "/var/tmp"  # noqa: S108
    backend: Literal["bubblewrap", "process", "auto"] = "bubblewrap"  # what confines a harness there

    @field_validator("allow_installs")
    @classmethod
    def _host_holds_all(cls, value: bool) -> bool:
        if value:
            raise ValueError("true needs a Python of this machine; install packages on the host; allowed: false")
        return value


class CustomSandboxConfig(BaseSandboxConfig):
    """Settings of a sandbox of the user's own: each further key is an argument of its constructor."""

    model_config = ConfigDict(extra="allow")


SandboxConfig = Annotated[
    Annotated[BaseSandboxConfig, Tag("Shipped")]
    | Annotated[DockerConfig, Tag("Docker")]
    | Annotated[ApptainerConfig, Tag("Apptainer")]
    | Annotated[SshConfig, Tag("Ssh")]
    | Annotated[CustomSandboxConfig, Tag("Custom")],
    schema_by_class(
        "_target_",
        {
            "sia_runner.sandbox.docker.": "Docker",
            "sia_runner.sandbox.apptainer.": "Apptainer",
            "sia_runner.sandbox.remote.": "Ssh",
        },
    ),
]


def sandbox_arguments(sandbox: BaseSandboxConfig) -> dict[str, Any]:
    """Return the keys that only this kind of sandbox has: the arguments of its class."""
    return sandbox.model_dump(exclude=set(BaseSandboxConfig.model_fields))


class StageResources(ConfigSection):
    """The resources requested from sbatch for one kind of stage; null: those of `default`, there the cluster's own."""

    run_in: Literal["job", "driver"] | None = None  # driver: no job, the stage runs where the loop runs
    partition: NonEmptyText | None = None  # --partition
    account: NonEmptyText | None = None  # --account
    qos: NonEmptyText | None = None  # --qos
    cpus: PositiveInt | None = None  # --cpus-per-task
    memory_gb: Annotated[float, Field(ge=0)] | None = None  # --mem; 0: all memory of the node; null: no --mem
    gpus: NonNegativeInt | NonEmptyText | None = None  # of each node: a number, or a value of --gres=gpu:…, like a100:2
    gpu_gb: PositiveFloat | None = None  # memory of one GPU, in GB; null: that of its type, if its name is a usual one
    nodes: PositiveInt | None = None  # --nodes, of `train` alone: trainer.processes are dealt to them
    minutes: PositiveInt | None = None  # --time
    constraint: NonEmptyText | None = None  # --constraint
    reservation: NonEmptyText | None = None  # --reservation
    nodelist: NonEmptyText | None = None  # --nodelist
    exclude: NonEmptyText | None = None  # --exclude
    setup: list[str] | None = None  # shell lines before Python starts: module load …
    extra: dict[NonEmptyText, str | int | bool] | None = None  # any other option of sbatch, by its long name


class ResourcesByStage(ConfigSection):
    """The resources of each kind of stage."""

    default: StageResources = Field(default_factory=StageResources)  # of every stage that does not set its own
    # of every stage that loads the policy's weights, before `default`; null: what the policy needs
    policy: StageResources = Field(default_factory=StageResources)
    propose: StageResources = Field(default_factory=StageResources)  # also the trials and probes of the proposer
    gate: StageResources = Field(default_factory=StageResources)  # the short run on dev
    run: StageResources = Field(default_factory=StageResources)  # the run on dev and val
    verify: StageResources = Field(default_factory=StageResources)  # the verifier
    train: StageResources = Field(default_factory=StageResources)  # an update of the weights
    test: StageResources = Field(default_factory=StageResources)  # the final test
    # no stage: the vLLM servers that all stages share (target_agent.policy.vllm.owner=run)
    servers: StageResources = Field(default_factory=StageResources)

    def of(self, kind: str, *, loads_policy: bool = False) -> StageResources:
        """Return the resources of stages of this kind; keys that are null come from `policy`, then from `default`."""
        own: StageResources = getattr(self, kind)
        layers = (self.policy, own) if loads_policy else (own,)
        keys = self.default.model_dump()
        for layer in layers:
            keys |= layer.model_dump(exclude_none=True)
        if kind == "propose" and keys["run_in"] is None:  # the loop waits for it: a job only for what it loads
            keys["run_in"] = "job" if loads_policy else "driver"
        return StageResources.model_validate(keys)


class InlineComputeConfig(ComponentConfig):
    """Settings of `inline`, or of a class of the user's own."""

    workers: PositiveInt = 1  # sandboxes that run in parallel


class LocalComputeConfig(InlineComputeConfig):
    """Settings of `local`: each stage is a process on this machine."""

    jobs: PositiveInt = 2  # maximum number of jobs in parallel
    # lasting workers for gate, run and verify, beside the jobs; null: a job for each step
    pool: PositiveInt | None = None


class SlurmComputeConfig(InlineComputeConfig):
    """Settings of `slurm`: each stage is a SLURM job."""

    site: NonEmptyText = "none"  # the profile of compute/site/ that set partitions and accounts
    warn_seconds: Annotated[int, Field(ge=5)] = 90  # seconds before its time limit at which a job gets USR2
    resources: ResourcesByStage = Field(default_factory=ResourcesByStage)
    # lasting workers with `run`'s resources for gate, run and verify; null: a job for each step
    pool: PositiveInt | None = None

    @field_validator("resources")
    @classmethod
    def _has_limit(cls, value: ResourcesByStage) -> ResourcesByStage:
        if value.default.minutes is None:
            raise ValueError("default.minutes is needed: without a time limit a lost job would occupy its node")
        return value


ComputeConfig = Annotated[
    Annotated[InlineComputeConfig, Tag("Custom")]
    | Annotated[LocalComputeConfig, Tag("Local")]
    | Annotated[SlurmComputeConfig, Tag("Slurm")],
    schema_by_class("_target_", {"sia_runner.compute.local.": "Local", "sia_runner.compute.slurm.": "Slurm"}, "Custom"),
]


_MAX_WANDB_NAME = 128  # characters of a project, group or run in W&B
_NOT_IN_WANDB_NAMES = r"/\#?%:"


def check_wandb_name(name: str) -> str:
    """Return the name of a project, user or team in W&B. Raises ValueError for what wandb or its server refuses."""
    if not 0 < len(name) <= _MAX_WANDB_NAME:
        raise ValueError(f"it has {len(name)} characters; allowed: 1 to {_MAX_WANDB_NAME}")
    if wrong := [character for character in _NOT_IN_WANDB_NAMES if character in name]:
        team = "; a team is named by tracker.entity alone" if wrong == ["/"] else ""
        raise ValueError(f"it has {' '.join(wrong)}; allowed: all but {' '.join(_NOT_IN_WANDB_NAMES)}{team}")
    return name


WandbName = Annotated[str, AfterValidator(check_wandb_name)]


class WandbConfig(NamedConfig):
    """Settings of `wandb`, Weights & Biases; offline without a key."""

    target: Literal["sia_runner.tracking.wandb.Wandb"] = Field(alias="_target_")
    project: WandbName = "sia-runner"  # project in W&B: at most 128 characters, none of / \ # ? % :
    entity: WandbName | None = None  # user or team; null: the key's own default
    group: Annotated[str, Field(min_length=1, max_length=128)] | None = None  # null: the name of the run's sweep
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list)  # in addition to ours
    artifacts: bool = True  # harnesses and adapters
    texts: bool = False  # titles and rationales; their author, the proposer, has seen dev questions and answers
    wait: NonNegativeFloat = 15.0  # seconds to wait for uploads at the end of a run


class BasicTrackerConfig(ComponentConfig):
    """Settings of `local` and `none`."""


TrackerConfig = Annotated[
    Annotated[WandbConfig, Tag("Wandb")]
    | Annotated[BasicTrackerConfig, Tag("Shipped")]
    | Annotated[CustomComponentConfig, Tag("Custom")],
    schema_by_class("_target_", {"sia_runner.tracking.wandb.Wandb": "Wandb"}),
]
