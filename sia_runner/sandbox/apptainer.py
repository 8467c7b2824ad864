"""apptainer: a container without an engine, started like any program below the supervisor, which holds its limits.

Nothing but the image and what is bound is seen inside. Its root is read-only and its network an empty namespace; the
system call filter and the loss of privileges are ours, by `inside` and `launch`, as in `docker`.
"""

import hashlib
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.sandbox import driver
from sia_runner.sandbox.protocol import Sandbox, SandboxError, SandboxJob, SandboxResult


class Apptainer(Sandbox):
    """The `apptainer` sandbox: each job runs in a container of one image file."""

    name = "apptainer"

    def __init__(self, image: str, gpus: int = 0) -> None:
        """Take the path of an image; `gpus`: 0 for none, any other number for all GPUs of this job."""
        self._image, self._gpus = image, gpus

    def check(self, *, with_gateway: bool = False) -> None:
        """Raise SandboxError when this backend cannot work here."""
        _program()
        _image(self._image)
        driver.try_out(self, with_gateway)

    def gaps(self, *, with_gateway: bool = False) -> list[str]:
        """List what this backend does not protect on this machine, one sentence each."""
        return driver.kernel_gaps("containers share", "what lies in the container's /tmp is")

    def versions(self) -> dict[str, str]:
        """Return the image, its hash and apptainer's version."""
        identity = _identity(_image(self._image))
        answer = subprocess.run([_program(), "--version"], capture_output=True, text=True, check=False, timeout=30)
        return {"image": self._image, "id": identity, "engine": answer.stdout.strip()}

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job to its end or to a limit."""
        return driver.run_job(job, self._plan)

    def _plan(self, job: SandboxJob) -> dict[str, Any]:
        plan, visible = driver.container_plan(job, kind="apptainer")
        image, uid = os.fspath(_image(self._image)), plan["launch"]["uid"]
        note = (
            "in this sandbox /tmp and /dev/shm, the shared memory, are as small as the site's apptainer.conf has them"
        )
        plan["hint"] = driver.FULL_ERRORS, note
        plan["apptainer"] = arguments(_program(), image, visible, plan["work"], uid=uid, gpus=bool(self._gpus))
        return plan


def arguments(program: str, image: str, visible: dict[str, str], work: str, uid: int | None, gpus: bool) -> list[str]:
    """Build a command that leaves nothing of the host (home, folders, environment) to apptainer's configuration."""
    words = [program, "--silent", "exec", "--containall", "--cleanenv", "--no-eval"]
    words += ["--no-mount", "bind-paths,hostfs,cwd", "--net", "--network", "none", "--hostname", "sandbox"]
    words += ["--pwd", "/", "--drop-caps", "all", "--no-privs"]
    if uid is not None:
        words += ["--security", f"uid:{uid}", "--security", f"gid:{uid}"]
    if gpus:
        words.append("--nv")
    for inside, source in visible.items():
        words += ["--mount", _mount(source, inside) + ",ro"]
    return [*words, "--mount", _mount(work, driver.WORK), image, *driver.FIRST_PROCESS]


def _mount(source: str, inside: str) -> str:
    """Return a --mount option as quoted comma-separated values: a path may hold a comma."""
    parts = ("type=bind", f"source={source}", f"destination={inside}")
    return ",".join('"' + part.replace('"', '""') + '"' for part in parts)


def _program() -> str:
    return driver.installed_program(
        "apptainer", "apptainer is not installed (its program is not on PATH; clusters often have a module of it)"
    )


def _image(name: str) -> Path:
    if not Path(name).exists():
        raise SandboxError(
            f"sandbox.image={name}: no such file or folder; make it where there is Docker: docker build "
            f"-t sia-runner-sandbox {driver.IMAGE_FOLDER} && "
            f"apptainer build {name} docker-daemon:sia-runner-sandbox:latest"
        )
    return Path(name).resolve()


@lru_cache(maxsize=4)
def _identity(image: Path) -> str:
    """Return the hash of an image file; a folder has none that is quick to compute."""
    if image.is_dir():
        return "folder"
    with image.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
