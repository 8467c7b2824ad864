"""The command `prefetch` fetches all that a run would download, for clusters whose compute nodes have no network."""

import shutil
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import sia_runner
from sia_runner.commands.checks import FETCHED, MISSING, NETWORK, THERE, CheckResult, print_results, run_check
from sia_runner.config.composition import composed_experiment
from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import Components, warm_up_dialogues
from sia_runner.experiment.costs import hosted_roles
from sia_runner.experiment.execution import environment_fault
from sia_runner.policy.backend import tinker_url
from sia_runner.sandbox.driver import IMAGE_FOLDER
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.system import bundled_folder, cache_dir

_BUILD_SECONDS = 1800.0  # seconds for an image


def main(options: Namespace) -> int:
    """Fetch everything and print one line for each thing; return the exit code."""
    with composed_experiment(options.overrides) as (config, outcome):
        if config:
            outcome.code = print_results(prefetch(config))
            print(f"cache folder: {cache_dir()} (SIA_CACHE moves it); compute nodes have to see it under this name")
    return outcome.code


def prefetch(config: Experiment) -> Iterator[CheckResult]:
    """Fetch everything in turn; a failure does not keep the rest from being fetched."""
    components = Components(config)
    yield run_check("data", _fetch_data, components, fault_state=MISSING)
    if config.has_policy:
        yield run_check("policy", _fetch_policy, components, fault_state=MISSING)
    for harness in _harnesses_with_requirements(components):
        yield run_check("environment", _fetch_environment, config, harness, fault_state=MISSING)
    if hasattr(config.sandbox, "image"):
        yield run_check("image", _fetch_image, components, fault_state=MISSING)
    yield from _network_needs(config)


def _fetch_data(components: Components) -> tuple[str, str]:
    messages: list[str] = []
    task = components.task
    task.prepare(messages.append)
    return (FETCHED, messages[-1]) if messages else (THERE, f"task {task.name}: {len(task.data_hashes())} files")


def _fetch_policy(components: Components) -> tuple[str, str]:
    """Download the base model, or build and warm it. No weights are loaded, so no GPU is needed."""
    from sia_runner.wire.policy import check_policy_packages, check_tinker_packages

    elsewhere = components.config.target_agent.policy.backend == "tinker"  # only the tokenizer is needed here
    check_tinker_packages() if elsewhere else check_policy_packages()
    from sia_runner.policy.base_model import base_folder, load_tokenizer
    from sia_runner.policy.engine import TINY_BASE
    from sia_runner.policy.tiny import tiny_base_folder

    spec = components.config.target_agent.policy
    if spec.base == TINY_BASE:
        messages: list[str] = []
        folder = tiny_base_folder(spec.tiny, cache_dir(), warm_up_dialogues(components.task), messages.append)
        return FETCHED if messages else THERE, f"{messages[-1] if messages else 'tiny'}; in {folder}"
    before = _downloaded(spec.base)
    folder = base_folder(spec.base, weights=not elsewhere)
    load_tokenizer(spec.base, folder)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return THERE if before == _file_names(folder) else FETCHED, f"{spec.base}: {size / 1e9:.2f} GB in {folder}"


def _downloaded(base: str) -> set[str]:
    """Return the files of a hub id that are already here. A folder of the user's own has all of them."""
    from sia_runner.policy.wheel_base import WHEEL_BASES, cached_base

    if base in WHEEL_BASES:
        folder = cached_base(base, cache_dir())
        return _file_names(folder) if folder.is_dir() else set()
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


def _harnesses_with_requirements(components: Components) -> list[Path]:
    """Return the harnesses of the task, or of the folder to replay, whose requirements.txt differ."""
    replayed = getattr(components.config.meta_agent, "dir", None)
    folder = Path(replayed).expanduser() if replayed else components.task.folder
    harness_of: dict[str, Path] = {}
    for file in sorted(folder.rglob("requirements.txt")):
        if "data" not in file.relative_to(folder).parts:
            harness_of.setdefault(file.read_text(encoding="utf-8"), file.parent)
    return list(harness_of.values())


def _fetch_environment(config: Experiment, harness: Path) -> tuple[str, str]:
    folder = cache_dir() / "envs"
    before = {*folder.glob("*/bin/python")}
    if fault := environment_fault(config, harness):
        raise RunDirectoryError(fault)
    return THERE if before == {*folder.glob("*/bin/python")} else FETCHED, f"of {harness}/requirements.txt"


def _fetch_image(components: Components) -> tuple[str, str]:
    """Fetch or build the image: of sandbox=docker on this machine's engine, of sandbox=apptainer as a file."""
    kind, name = components.config.sandbox.name, str(getattr(components.config.sandbox, "image", ""))
    state = THERE
    try:
        versions = components.sandbox.versions()
    except SandboxError as absent:
        _make_image(kind, name, absent)
        state, versions = FETCHED, components.sandbox.versions()
    every_node = "; each node has an engine of its own: docker save | docker load brings it there"
    return state, f"{name}: {versions['id'][:19]}{'' if kind == 'apptainer' else every_node}"


def _make_image(kind: str, name: str, absent: SandboxError) -> None:
    if kind == "apptainer":
        command = ["apptainer", "build", str(Path(name).resolve()), str(bundled_folder("slurm") / "apptainer.def")]
    elif name == "sia-runner-sandbox":
        command = ["docker", "build", "-q", "-t", name, str(IMAGE_FOLDER)]
    else:
        command = ["docker", "pull", "-q", name]
    program = command[0]  # `docker version` fails where no engine answers
    if not shutil.which(program) or subprocess.run([program, "version"], capture_output=True, check=False).returncode:
        raise RunDirectoryError(str(absent))
    root = Path(sia_runner.__file__).parent.parent  # paths in apptainer.def are relative to it
    try:
        result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise RunDirectoryError(f"{' '.join(command[:2])} took longer than {_BUILD_SECONDS:.0f} s; {absent}") from None
    if result.returncode:
        raise RunDirectoryError(f"{' '.join(command[:2])}: {' '.join(result.stderr.split())[-200:]}; {absent}")


def _network_needs(config: Experiment) -> Iterator[CheckResult]:
    for role, hosted in hosted_roles(config).items():
        who = "the driver" if role == "meta" else "every node that runs harnesses"
        text = f"{hosted.name}: {who} has to reach {hosted.base_url or 'it'} (HTTPS_PROXY is heeded)"
        yield CheckResult("provider", NETWORK, text)
    policy = config.target_agent.policy
    address = tinker_url(policy) if policy.backend == "tinker" else policy.base_url
    if policy.backend in ("vllm", "tinker") and config.has_policy and address:
        text = f"{policy.backend}: every node that runs harnesses or trains has to reach {address}"
        yield CheckResult("policy server", NETWORK, text)
    writes = config.proposer_calls_model or config.meta_agent.target.startswith("sia_runner.proposers.guests.")
    if config.sandbox.allow_installs and writes:
        text = "of harnesses that the proposer will write: where they are run first, wheels are fetched; "
        text += "without a network there, a harness that asks for new ones fails at the gate"
        yield CheckResult("environments", NETWORK, text)
