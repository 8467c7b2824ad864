"""The schema of conf/sandbox/*.yaml says where a harness runs."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator

from sia_runner.schema.parts import Component, Count


class Shared(Component):
    """Settings of any sandbox class: the limits that all of them have."""

    memory_mb: Annotated[int, Field(ge=64)] = 4096
    processes: Annotated[int, Field(ge=4)] = 128
    disk_mb: Count = 512  # of work/
    file_mb: Count = 256  # of one file
    output_kb: Annotated[int, Field(ge=1, le=1024 * 1024)] = 1024  # kept of stdout and stderr
    cpus: Count = 1
    allow_installs: bool = False  # may a harness bring requirements.txt?


class OfImage(Shared):
    """Settings of a sandbox from a container image, which holds every package that a harness can use."""

    image: Annotated[str, Field(min_length=1)]

    @field_validator("allow_installs")
    @classmethod
    def _image_holds_all(cls, value: bool) -> bool:
        if value:
            raise ValueError(
                "true needs a Python of this machine; with an image, build the packages into it; allowed: false"
            )
        return value


class Docker(OfImage):
    """Settings of `docker`."""

    gpus: Annotated[int, Field(ge=-1)] = 0  # number of GPUs; -1: all
    require_limits: bool = True  # refuse an engine that does not enforce limits; false: sample usage, and report that


class Apptainer(OfImage):
    """Settings of `apptainer`."""

    gpus: Annotated[int, Field(ge=-1, le=0)] = 0  # -1: all GPUs of the job


def _sandbox_schema(sandbox: Any) -> str:
    target = str(sandbox.get("_target_") if isinstance(sandbox, dict) else sandbox.target)
    schemas = {f"sia_runner.sandbox.{name.lower()}.{name}": name for name in ("Docker", "Apptainer")}
    return schemas.get(target, "Shared")


Sandbox = Annotated[
    Annotated[Shared, Tag("Shared")] | Annotated[Docker, Tag("Docker")] | Annotated[Apptainer, Tag("Apptainer")],
    Discriminator(_sandbox_schema),
]


def own_keys(sandbox: Shared) -> dict[str, Any]:
    """Return the keys that only this kind of sandbox has: the arguments of its class."""
    return sandbox.model_dump(exclude=set(Shared.model_fields))
