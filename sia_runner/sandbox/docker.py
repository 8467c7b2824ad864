"""docker: a container of its own for every run, on an engine of this machine; the image is all that a harness sees."""

import contextlib
import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sia_runner.sandbox import driver
from sia_runner.sandbox.protocol import Sandbox, SandboxError, SandboxJob, SandboxResult

_BACKSTOP = 1 << 30  # address space beyond a memory limit that nothing but a sample holds
_LABEL = "org.sia-runner.sandbox"
_LEFT_BEHIND = 600  # seconds after which a container that never ran, or was not removed, is abandoned


@dataclass(frozen=True)
class EngineImage:
    """A container engine that answers, and the image on it."""

    api: Any  # the SDK's client
    socket: str
    image: str  # its Id: a name may mean another one tomorrow
    digest: str  # in the registry it came from; empty for one that was built or imported here
    server: str
    rootless: bool


class Docker(Sandbox):
    """The `docker` sandbox: each job runs in a container of its own."""

    name = "docker"

    def __init__(self, image: str, gpus: int = 0, require_limits: bool = True) -> None:
        """Take an image name; `gpus`: how many, -1: all; `require_limits`: refuse an engine that ignores limits."""
        self._image, self._gpus, self._require_limits = image, gpus, require_limits

    def check(self, *, with_gateway: bool = False) -> None:
        """Raise SandboxError when this backend cannot work here."""
        _remove_abandoned(_engine(self._image))
        ignored = _ignored(_engine(self._image))
        if ignored and self._require_limits:
            raise SandboxError(
                f"this container engine ignores limits of {' and '.join(ignored)} (a program passed them and went on), "
                "as rootless engines without delegated cgroups do; use another engine or sandbox, or have them sampled "
                "with sandbox.require_limits=false"
            )
        driver.try_out(self, with_gateway)

    def gaps(self, *, with_gateway: bool = False) -> list[str]:
        """List what this backend does not protect on this machine, one sentence each."""
        gaps = ["A hole in the kernel itself is a way out: containers share the host's kernel."]
        ignored = _ignored(_engine(self._image))
        if ignored:
            gaps.append(
                f"This engine ignores limits of {' and '.join(ignored)}: they are sampled every 50 ms, memory may "
                f"overshoot by about 100 MiB per cpu, and {2 * driver.SMALL_MB} MiB in /tmp and /dev/shm are "
                "not counted."
            )
        return gaps

    def versions(self) -> dict[str, str]:
        """Return the image, its Id and digest, and the engine's version."""
        engine = _engine(self._image)
        digest = {"digest": engine.digest} if engine.digest else {}
        return {"image": self._image, "id": engine.image, **digest, "engine": engine.server}

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job to its end or to a limit."""
        return driver.run_job(job, self._plan)

    def _plan(self, job: SandboxJob) -> dict[str, Any]:
        engine = _engine(self._image)
        return _plan(engine, job, self._gpus, enforced=not _ignored(engine))


def _plan(engine: EngineImage, job: SandboxJob, gpus: int, *, enforced: bool) -> dict[str, Any]:
    plan, visible = driver.container_plan(job, kind="docker")
    if not enforced and not gpus:  # drivers of GPUs reserve far more address space than there is memory
        plan["launch"]["rlimits"]["RLIMIT_AS"] = plan["limits"]["memory"] + _BACKSTOP
    plan["hint"] = driver.FULL_ERRORS, driver.FULL_NOTE
    uid = plan["launch"]["uid"]
    user = f"{os.geteuid()}:{os.getegid()}" if uid is None else f"{uid}:{uid}"
    if engine.rootless:
        user = "0:0"  # in a rootless engine's user namespace: the engine's user, without rights outside
    request, version = _request(engine, user, visible, plan, gpus), engine.api.api_version
    plan["container"] = {"socket": engine.socket, "version": version, "request": request, "enforced": enforced}
    return plan


def _request(engine: EngineImage, user: str, visible: dict[str, str], plan: dict[str, Any], gpus: int) -> str:
    from docker.types import DeviceRequest, LogConfig, Mount

    mounts = [Mount(inside, source, type="bind", read_only=True) for inside, source in visible.items()]
    memory = plan["limits"]["memory"]
    small = f"size={driver.SMALL_MB << 20},mode=1777,nosuid,nodev,exec"
    host = engine.api.create_host_config(
        auto_remove=True,
        cap_drop=["ALL"],
        device_requests=[DeviceRequest(capabilities=[["gpu"]], **_gpu_request(gpus))] if gpus else None,
        ipc_mode="private",
        log_config=LogConfig(type="none"),  # else the engine keeps all that a harness prints
        mem_limit=memory,
        memswap_limit=memory,
        mounts=[*mounts, Mount(driver.WORK, plan["work"], type="bind")],
        network_mode="none",
        oom_score_adj=500,  # should the machine run short, the kernel takes harnesses, not the runner
        pids_limit=plan["limits"]["processes"] + plan["relays"] + driver.FIRST_PROCESS_COUNT,
        read_only=True,
        security_opt=["no-new-privileges"],
        shm_size=driver.SMALL_MB << 20,
        tmpfs={"/tmp": small},  # noqa: S108
    )
    program, *command = driver.FIRST_PROCESS
    settings = {"hostname": "sandbox", "user": user, "working_dir": "/", "labels": {_LABEL: plan["work"]}}
    settings |= {"entrypoint": [program], "stdin_open": True, "host_config": host}
    return json.dumps(engine.api.create_container_config(engine.image, command, **settings))


def _gpu_request(gpus: int) -> dict[str, Any]:
    """Select GPUs for the engine, which does not know SLURM: a job lists its own in CUDA_VISIBLE_DEVICES."""
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not devices:
        return {"count": gpus}
    return {"device_ids": devices if gpus < 0 else devices[:gpus]}


def _engine(image: str) -> EngineImage:
    return _find(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock", image)


@lru_cache(maxsize=4)
def _find(host: str, image: str) -> EngineImage:
    """Connect to the engine; raise SandboxError where the SDK, the engine or the image is missing."""
    try:
        import docker
        from docker.errors import DockerException, ImageNotFound
    except ImportError:
        raise SandboxError('sandbox=docker needs the docker package: pip install "sia-runner[docker]"') from None
    if not host.startswith("unix://"):
        raise SandboxError(f"DOCKER_HOST={host}: only an engine on this machine can show it a harness (unix://…)")
    try:
        client = docker.DockerClient(base_url=host, version="auto", timeout=60)
        info = client.info()
        local_image = client.images.get(image)
    except ImageNotFound:
        raise SandboxError(
            f"the container engine has no image {image}; make it: docker build -t {image} {driver.IMAGE_FOLDER}"
        ) from None
    except (DockerException, OSError) as error:  # what the SDK itself is built on raises the latter
        raise SandboxError(f"no container engine answers at {host}: {' '.join(str(error).split())[:200]}") from None
    digests = local_image.attrs.get("RepoDigests") or [""]
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or ())
    socket, server = host.removeprefix("unix://"), str(info.get("ServerVersion"))
    return EngineImage(client.api, socket, str(local_image.id), digests[0], server, rootless)


@lru_cache(maxsize=4)
def _ignored(engine: EngineImage) -> tuple[str, ...]:
    """Return those of ``memory`` and ``processes`` that a program exceeded on this engine."""

    def plan_of(job: SandboxJob) -> dict[str, Any]:
        plan = _plan(engine, job, 0, enforced=True)  # so that nothing of ours holds them
        plan["launch"]["rlimits"]["RLIMIT_NPROC"] = 1 << 20
        return plan

    return driver.ignored_limits(lambda job: driver.run_job(job, plan_of))


def _remove_abandoned(engine: EngineImage) -> None:
    """Remove containers that a killed supervisor or a killed engine left behind."""
    from docker.errors import APIError

    filters = {"label": [_LABEL], "status": ["created", "exited", "dead"]}
    for container in engine.api.containers(all=True, filters=filters):
        if time.time() - container["Created"] > _LEFT_BEHIND:
            with contextlib.suppress(APIError):  # another process removes it
                engine.api.remove_container(container["Id"], force=True)
