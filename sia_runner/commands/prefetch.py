"""The command `prefetch` fetches all that a run would download, for clusters whose compute nodes have no network."""

import shutil
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import sia_runner
from sia_runner.commands.checks import (
    FAULTS,
    FETCHED,
    MISSING,
    NETWORK,
    THERE,
    CheckResult,
    print_results,
    result_of_fault,
)
from sia_runner.config.composition import composed_experiment
from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import Components, warm_up_dialogues
from sia_runner.experiment.costs import hosted_roles
from sia_runner.experiment.execution import environment_fault
from sia_runner.sandbox.driver import image_folder
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.system import bundled_folder, cache_dir

_BUILD_SECONDS = 1800.0  # seconds for an image


def fetch_data(config: Experiment) -> CheckResult:
    """Prepare the task's data."""
    messages: list[str] = []
    task = Components(config).task
    task.prepare(messages.append)
    return CheckResult(
        "data",
        FETCHED if messages else THERE,
        messages[-1] if messages else f"task {task.name}: {len(task.data_hashes())} files",
    )


def fetch_policy(config: Experiment) -> CheckResult:
    """Download the base model, or build and warm it. No weights are loaded, so no GPU is needed."""
    from sia_runner.policy.engine import TINY_BASE
    from sia_runner.wire.policy import check_policy_packages

    check_policy_packages()
    spec = config.target_agent.policy
    if spec.base == TINY_BASE:
        return _tiny_policy(config)
    from sia_runner.policy.base_model import base_folder, load_tokenizer

    before = _downloaded(spec.base)
    folder = base_folder(spec.base)
    load_tokenizer(spec.base, folder)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    state = THERE if before == _file_names(folder) else FETCHED
    return CheckResult("policy", state, f"{spec.base}: {size / 1e9:.2f} GB in {folder}")


def _tiny_policy(config: Experiment) -> CheckResult:
    from sia_runner.policy.tiny import tiny_base_folder

    messages: list[str] = []
    path = tiny_base_folder(
        config.target_agent.policy.tiny, cache_dir(), warm_up_dialogues(Components(config).task), messages.append
    )
    return CheckResult("policy", FETCHED if messages else THERE, f"{messages[-1] if messages else 'tiny'}; in {path}")


def _downloaded(base: str) -> set[str]:
    """Return the files of a hub id that are already here. A folder of the user's own has all of them."""
    if Path(base).expanduser().is_dir():
        return _file_names(Path(base).expanduser())
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return _file_names(Path(snapshot_download(base, local_files_only=True)))
    except (OSError, ValueError, HFValidationError):
        return set()


def _file_names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def environment_steps(config: Experiment) -> Iterator[Callable[[], CheckResult]]:
    """Yield one step for each harness of the task, or of the folder to replay, that has requirements.txt."""
    replayed = getattr(config.meta_agent, "dir", None)
    folders = [Path(replayed).expanduser()] if replayed else [Components(config).task.folder]
    harness_of: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("requirements.txt")):
            if "data" not in file.relative_to(folder).parts:
                harness_of.setdefault(file.read_text(encoding="utf-8"), file.parent)
    for harness in harness_of.values():
        yield lambda harness=harness: _environment(config, harness)


def _environment(config: Experiment, harness: Path) -> CheckResult:
    before = _environments()
    if fault := environment_fault(config, harness):
        raise RunDirectoryError(fault)
    return CheckResult("environment", FETCHED if _environments() - before else THERE, f"of {harness}/requirements.txt")


def _environments() -> set[Path]:
    return set((cache_dir() / "envs").glob("*/bin/python"))


def fetch_image(config: Experiment) -> CheckResult:
    """Fetch or build the image: of sandbox=docker on this machine's engine, of sandbox=apptainer as a file."""
    kind, name = config.sandbox.name, str(getattr(config.sandbox, "image", ""))
    sandbox = Components(config).sandbox
    try:
        return CheckResult("image", THERE, _image(kind, name, sandbox.versions()))
    except SandboxError as absent:
        _make_image(kind, name, absent)
    return CheckResult("image", FETCHED, _image(kind, name, sandbox.versions()))


def _image(kind: str, name: str, versions: dict[str, str]) -> str:
    where = (
        "" if kind == "apptainer" else "; each node has an engine of its own: docker save | docker load brings it there"
    )
    return f"{name}: {versions['id'][:19]}{where}"


def _make_image(kind: str, name: str, absent: SandboxError) -> None:
    if kind == "apptainer":
        command = ["apptainer", "build", str(Path(name).resolve()), str(bundled_folder("slurm") / "apptainer.def")]
    elif name == "sia-runner-sandbox":
        command = ["docker", "build", "-q", "-t", name, str(image_folder())]
    else:
        command = ["docker", "pull", "-q", name]
    if not _is_working(command[0]):
        raise RunDirectoryError(str(absent))
    beside_the_package = Path(sia_runner.__file__).parent.parent  # paths in apptainer.def are relative to it
    try:
        result = subprocess.run(
            command, cwd=beside_the_package, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise RunDirectoryError(f"{' '.join(command[:2])} took longer than {_BUILD_SECONDS:.0f} s; {absent}") from None
    if result.returncode:
        raise RunDirectoryError(f"{' '.join(command[:2])}: {' '.join(result.stderr.split())[-200:]}; {absent}")


def _is_working(program: str) -> bool:
    """Return True where the program answers: `docker version` fails where no engine does."""
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, "version"], capture_output=True, check=False).returncode == 0


def provider_needs(config: Experiment) -> Iterator[CheckResult]:
    """Yield the hosted models that a run calls, with the machines that must reach them."""
    for role, hosted in hosted_roles(config).items():
        who = "the driver" if role == "meta" else "every node that runs harnesses"
        yield CheckResult(
            "provider", NETWORK, f"{hosted.name}: {who} has to reach {hosted.base_url or 'it'} (HTTPS_PROXY is heeded)"
        )
    if config.target_agent.policy.backend == "vllm" and config.has_policy:
        where = config.target_agent.policy.base_url
        yield CheckResult(
            "policy server", NETWORK, f"vllm: every node that runs harnesses or trains has to reach {where}"
        )


def run_time_needs(config: Experiment) -> Iterator[CheckResult]:
    """Yield the needs that nobody can know before the run."""
    writes = config.proposer_calls_model or config.meta_agent.target.startswith("sia_runner.proposers.guests.")
    if config.sandbox.allow_installs and writes:
        yield CheckResult(
            "environments", NETWORK, "of harnesses that the proposer will write: where they are run first, wheels are "
            "fetched; without a network there, a harness that asks for new ones fails at the gate"
        )  # fmt: skip


def main(options: Namespace) -> int:
    """Fetch everything and print one line for each thing; return the exit code."""
    with composed_experiment(options.overrides) as (config, outcome):
        if config:
            outcome.code = print_results(prefetch(config))
            print(f"cache folder: {cache_dir()} (SIA_CACHE moves it); compute nodes have to see it under this name")
    return outcome.code


def prefetch(config: Experiment) -> Iterator[CheckResult]:
    """Fetch everything in turn; a failure does not keep the rest from being fetched."""
    yield _attempt("data", lambda: fetch_data(config))
    if config.has_policy:
        yield _attempt("policy", lambda: fetch_policy(config))
    for environment in environment_steps(config):
        yield _attempt("environment", environment)
    if hasattr(config.sandbox, "image"):
        yield _attempt("image", lambda: fetch_image(config))
    yield from provider_needs(config)
    yield from run_time_needs(config)


def _attempt(what: str, fetch: Callable[[], CheckResult]) -> CheckResult:
    try:
        return fetch()
    except FAULTS as fault:
        return result_of_fault(what, MISSING, fault)
