"""The checks of the doctor: each returns one line, or raises Skipped or an error whose message says what to do."""

import importlib.util
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from sia_runner.candidate.execute import describe
from sia_runner.config import Experiment
from sia_runner.estimate.costs import hosted_roles
from sia_runner.ground.resources import cache_dir
from sia_runner.models import preflight
from sia_runner.models.keys import key_of
from sia_runner.models.policy.preflight import check as check_policy
from sia_runner.models.prices import price_of
from sia_runner.models.protocol import Grant, Models, Role
from sia_runner.rooms import limits, rooms
from sia_runner.rundir import RunError
from sia_runner.sandbox.protocol import Job, SandboxError

_SECONDS = 30.0  # time limit of the probe in the sandbox
_PROBE = """\
import os, urllib.request
url, token = os.environ["OPENAI_BASE_URL"] + "/models", os.environ["OPENAI_API_KEY"]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
with urllib.request.urlopen(request, timeout=10) as response:
    assert os.environ["SIA_MODEL"] in response.read().decode(), "the gateway does not list SIA_MODEL"
"""


class Skipped(Exception):
    """Raised where there is nothing to check; the message says why."""


def system() -> str:
    """Check the operating system."""
    if not sys.platform.startswith("linux"):
        raise RunError("SIA Runner runs on Linux; on macOS use Docker, on Windows WSL2")
    return f"Python {platform.python_version()} on {platform.system()} {platform.release()}"


def packages(config: Experiment) -> str:
    """Check that the packages of the experiment are installed."""
    names = ["core"]
    if hosted_roles(config):
        preflight.check_installed()
        names.append("models")
    if config.sandbox.allow_installs:
        if importlib.util.find_spec("uv") is None and shutil.which("uv") is None:
            raise RunError("sandbox.allow_installs needs uv; pip install 'sia-runner[installs]'")
        names.append("installs")
    return ", ".join(names)


def data(config: Experiment) -> str:
    """Prepare the task's data and count the questions of each split."""
    task = rooms(config).task
    task.prepare(lambda text: None)
    if not task.has_test:
        return "a sia-agent folder, scored as a whole"
    sizes = {name: len(units) for name, units in task.splits().items()}
    return ", ".join(f"{count} {name}" for name, count in sizes.items() if count)


def sandbox(config: Experiment) -> str:
    """Check the sandbox and name what it leaves open."""
    box = rooms(config).sandbox
    box.check(door=config.needs_door)
    gaps = box.gaps(door=config.needs_door)
    return f"{box.name} works" + (f"; it leaves open: {'; '.join(gaps)}" if gaps else "")


def key(config: Experiment, role: Role) -> str:
    """Check that the provider's key is set."""
    hosted = hosted_roles(config)[role]
    if key_of(hosted) is None:
        raise Skipped(f"provider {hosted.name} needs no key")
    return f"provider {hosted.name}: the key is set"


def policy(config: Experiment) -> str:
    """Check that the policy's packages are installed and that its server answers and takes adapters."""
    if not config.has_policy:
        raise Skipped("no weights are trained")
    spec = config.target_agent.policy
    check_policy(spec)
    return f"{spec.base}, served by {spec.backend}" + (f" at {spec.base_url}" if spec.base_url else "")


def price(config: Experiment, role: Role) -> str:
    """Check that the model's price is known where a limit needs it."""
    hosted = hosted_roles(config)[role]
    preflight.check_price(hosted, config.budget)
    rates = price_of(hosted)
    if rates is None:
        raise Skipped(f"prices of {hosted.model} are not known, and no limit needs them")
    return f"{hosted.model}: USD {rates.input:g} in, {rates.output:g} out per million tokens ({rates.source})"


def model(config: Experiment, role: Role) -> str:
    """Check that the provider's endpoint knows the model."""
    hosted = hosted_roles(config)[role]
    return f"provider {hosted.name} {preflight.check_endpoint(hosted)}"


def reach(config: Experiment, gateway: Models, role: Role, folder: Path) -> str:
    """Check that a harness in the sandbox reaches the gateway."""
    if role == "meta" and not hasattr(config.meta_agent, "seconds"):
        raise Skipped("the proposer calls from this process")
    folders = folder / role
    for name in ("harness", "data", "work"):
        (folders / name).mkdir(parents=True)
    (folders / "harness" / "target_agent.py").write_text(_PROBE)
    with gateway.admit(_grant(role, folder)) as visit:
        result = rooms(config).sandbox.run(
            Job(
                folders / "harness",
                "target_agent.py",
                folders / "data",
                folders / "work",
                folders / "log",
                limits(config, _SECONDS),
                door=visit.door,
            )
        )
    if failure := describe(result, folders / "log"):
        raise SandboxError(f"a harness does not reach the gateway: {failure}")
    return "a harness in the sandbox reaches it"


def call(gateway: Models, role: Role, folder: Path, *, call: bool) -> str:
    """Make one tiny call to the model, where --call asks for it."""
    if not call:
        raise Skipped("give --call to make one tiny call, which is paid for")
    ask = [{"role": "user", "content": "Answer with the word ok."}]
    reply = gateway.chat(_grant(role, folder), ask, (), max_tokens=512)
    usage = reply.usage
    return f"answered {' '.join(reply.text.split())[:40]!r}: {usage.tokens} tokens, USD {usage.usd:.6f}"


def _grant(role: Role, folder: Path) -> Grant:
    return Grant(role, 0, "doctor", "doctor", folder / "trajectories.jsonl")


def disk(config: Experiment, runs: Path) -> str:
    """Check that a few runs of harnesses fit on the disks of run directories and cache."""
    needed = 4 * config.sandbox.disk_mb * config.compute.workers
    lines: list[str] = []
    for folder in (runs, cache_dir()):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"x")
        free = shutil.disk_usage(existing).free >> 20
        if free < needed:
            raise RunError(
                f"{free} MiB free in {existing}; four work folders at once take {needed} MiB (sandbox.disk_mb)"
            )
        lines.append(f"{free >> 10} GiB free in {existing}")
    return ", ".join(dict.fromkeys(lines))


def who(role: Role) -> str:
    """Return the role's name in messages."""
    return "proposer" if role == "meta" else "harness"
