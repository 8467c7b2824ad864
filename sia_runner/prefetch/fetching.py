"""The downloads and builds of a run, one thing at a time. Each is fetched once; the second time it is there.

A step returns its result, or raises: Missing with what to do, or an error whose message says it.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sia_runner
from sia_runner.candidate.execute import environment_fault
from sia_runner.config import Experiment
from sia_runner.estimate.costs import hosted_roles
from sia_runner.ground.resources import bundled, cache_dir
from sia_runner.rooms import rooms, warming_texts
from sia_runner.rundir import RunError
from sia_runner.sandbox.contained import recipe
from sia_runner.sandbox.protocol import SandboxError

FETCHED, THERE, MISSING, NETWORK = "fetched", "there", "MISSING", "network"
_BUILDING = 1800.0  # seconds for an image


class Missing(RunError):
    """The thing cannot be fetched here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Got:
    """The result of one step: the thing, its state, and a text for the user."""

    what: str
    state: str
    text: str


def fetch_data(config: Experiment) -> Got:
    """Prepare the task's data."""
    messages: list[str] = []
    task = rooms(config).task
    task.prepare(messages.append)
    return Got(
        "data",
        FETCHED if messages else THERE,
        messages[-1] if messages else f"task {task.name}: {len(task.data_hashes())} files",
    )


def fetch_policy(config: Experiment) -> Got:
    """Download the base model, or build and warm it. No weights are loaded, so no GPU is needed."""
    from sia_runner.models.policy.ask import check_installed
    from sia_runner.models.policy.engine import TINY

    check_installed()
    spec = config.target_agent.policy
    if spec.base == TINY:
        return _tiny(config)
    from sia_runner.models.policy.checkpoint import folder_of, tokenizer_of

    before = _downloaded(spec.base)
    folder = folder_of(spec.base)
    tokenizer_of(spec.base, folder)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    state = THERE if before == _files(folder) else FETCHED
    return Got("policy", state, f"{spec.base}: {size / 1e9:.2f} GB in {folder}")


def _tiny(config: Experiment) -> Got:
    from sia_runner.models.policy.tiny import folder

    messages: list[str] = []
    path = folder(config.target_agent.policy.tiny, cache_dir(), warming_texts(rooms(config).task), messages.append)
    return Got("policy", FETCHED if messages else THERE, f"{messages[-1] if messages else 'tiny'}; in {path}")


def _downloaded(base: str) -> set[str]:
    """Return the files of a hub id that are already here. A folder of the user's own has all of them."""
    if Path(base).expanduser().is_dir():
        return _files(Path(base).expanduser())
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return _files(Path(snapshot_download(base, local_files_only=True)))
    except (OSError, ValueError, HFValidationError):
        return set()


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def environment_steps(config: Experiment) -> Iterator[Callable[[], Got]]:
    """Yield one step for each harness of the task, or of the folder to replay, that has requirements.txt."""
    replayed = getattr(config.meta_agent, "dir", None)
    folders = [Path(replayed).expanduser()] if replayed else [rooms(config).task.folder]
    harness_of: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("requirements.txt")):
            if "data" not in file.relative_to(folder).parts:
                harness_of.setdefault(file.read_text(encoding="utf-8"), file.parent)
    for harness in harness_of.values():
        yield lambda harness=harness: _environment(config, harness)


def _environment(config: Experiment, harness: Path) -> Got:
    before = _environments()
    if fault := environment_fault(config, harness):
        raise Missing(fault)
    return Got("environment", FETCHED if _environments() - before else THERE, f"of {harness}/requirements.txt")


def _environments() -> set[Path]:
    return set((cache_dir() / "envs").glob("*/bin/python"))


def fetch_image(config: Experiment) -> Got:
    """Fetch or build the image: of sandbox=docker on this machine's engine, of sandbox=apptainer as a file."""
    kind, name = config.sandbox.name, str(getattr(config.sandbox, "image", ""))
    sandbox = rooms(config).sandbox
    try:
        return Got("image", THERE, _image(kind, name, sandbox.versions()))
    except SandboxError as absent:
        _make_image(kind, name, absent)
    return Got("image", FETCHED, _image(kind, name, sandbox.versions()))


def _image(kind: str, name: str, versions: dict[str, str]) -> str:
    where = (
        "" if kind == "apptainer" else "; each node has an engine of its own: docker save | docker load brings it there"
    )
    return f"{name}: {versions['id'][:19]}{where}"


def _make_image(kind: str, name: str, absent: SandboxError) -> None:
    if kind == "apptainer":
        command = ["apptainer", "build", str(Path(name).resolve()), str(bundled("slurm") / "apptainer.def")]
    elif name == "sia-runner-sandbox":
        command = ["docker", "build", "-q", "-t", name, str(recipe())]
    else:
        command = ["docker", "pull", "-q", name]
    if not _works(command[0]):
        raise Missing(str(absent))
    beside_the_package = Path(sia_runner.__file__).parent.parent  # paths in apptainer.def are relative to it
    try:
        result = subprocess.run(
            command, cwd=beside_the_package, capture_output=True, text=True, check=False, timeout=_BUILDING
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(command[:2])} took longer than {_BUILDING:.0f} s; {absent}") from None
    if result.returncode:
        raise Missing(f"{' '.join(command[:2])}: {' '.join(result.stderr.split())[-200:]}; {absent}")


def _works(program: str) -> bool:
    """Return True where the program answers: `docker version` fails where no engine does."""
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, "version"], capture_output=True, check=False).returncode == 0


def provider_needs(config: Experiment) -> Iterator[Got]:
    """Yield the hosted models that a run calls, with the machines that must reach them."""
    for role, hosted in hosted_roles(config).items():
        who = "the driver" if role == "meta" else "every node that runs harnesses"
        yield Got(
            "provider", NETWORK, f"{hosted.name}: {who} has to reach {hosted.base_url or 'it'} (HTTPS_PROXY is heeded)"
        )
    if config.target_agent.policy.backend == "vllm" and config.has_policy:
        where = config.target_agent.policy.base_url
        yield Got("policy server", NETWORK, f"vllm: every node that runs harnesses or trains has to reach {where}")


def run_time_needs(config: Experiment) -> Iterator[Got]:
    """Yield the needs that nobody can know before the run."""
    writes = config.proposer_calls_model or config.meta_agent.target.startswith("sia_runner.agents.guests.")
    if config.sandbox.allow_installs and writes:
        yield Got(
            "environments", NETWORK, "of harnesses that the proposer will write: where they are run first, wheels are "
            "fetched; without a network there, a harness that asks for new ones fails at the gate"
        )  # fmt: skip
