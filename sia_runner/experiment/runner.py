"""Starting or resuming a run: checks, run directory, lock.json, lease, journal, live dashboard, then the loop."""

import hashlib
import importlib.util
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path

import yaml

from sia_runner import __version__
from sia_runner.compute.protocol import JobStopped
from sia_runner.config.base import is_custom
from sia_runner.config.experiment import Experiment, ReplayConfig, check_experiment
from sia_runner.config.migration import migrate_overrides, read_stored_config, renamed_key
from sia_runner.config.training import allowed_algorithms
from sia_runner.experiment import costs, sign_off, verifier_sandbox
from sia_runner.experiment.concurrent_loop import ConcurrentLoop
from sia_runner.experiment.context import RunContext, accept_rule
from sia_runner.experiment.control import with_equal_budget
from sia_runner.experiment.execution import RunInterrupted, SandboxFailed
from sia_runner.experiment.loop import INTERRUPTED, ExperimentLoop
from sia_runner.experiment.resources import SERVERS, fit_lines
from sia_runner.experiment.terminal import Display, sandbox_lines
from sia_runner.experiment.weights.update import check_adapters
from sia_runner.policy.base_model import base_folder, weights_sha256
from sia_runner.records import Json, Stage
from sia_runner.store.journal import Journal, JournalReader
from sia_runner.store.lease import LeaseHeldError, RunLease
from sia_runner.store.run_directory import RunDir, RunDirectoryError, read_json, sha256_of, write_json, write_text
from sia_runner.system import resume_garbage_collection
from sia_runner.tasks.protocol import TaskError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.policy import PolicyError

_LOCKED_PACKAGES = (
    "hydra-core", "omegaconf", "pydantic", "optuna", "numpy", "scipy", "scikit-learn", "rich", "filelock",
    "litellm", "aiohttp", "openai", "anthropic", "chess", "torch", "transformers", "peft", "trl", "accelerate",
    "tinker",
)  # fmt: skip
_DASHBOARD_PACKAGES = ("fastapi", "uvicorn")
# the overrides allowed beside resume=
RESUMABLE_KEYS = ("max_gen", "budget.", "compute.", "provider.key_file=", "meta_agent.provider.key_file=",
                  "target_agent.provider.key_file=", "target_agent.policy.base_url=",
                  "target_agent.policy.tinker.", "target_agent.policy.vllm.", "target_agent.policy.backend=",
                  "target_agent.policy.base=",
                  "target_agent.policy.dtype=", "target_agent.policy.trust_base=")  # fmt: skip
# of these, those that change what answers: only a run at a service may give them other values (_check_policy_change)
_POLICY_KEYS = ("backend", "base", "dtype", "trust_base")
_MODEL_NAMES = re.compile(r"openai|anthropic|sia_model|litellm", re.IGNORECASE)
_printed_lines: set[str] = set()  # opening lines that this process printed: a sweep has many runs
_stop_signals: list[int] = []  # the signals that asked this process to stop


def _lock_content(context: RunContext, overrides: Sequence[str]) -> Json:
    config, sandbox, packages = context.config, context.sandbox, dict[str, str]()
    for name in _LOCKED_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            headers = metadata.distribution(name).read_text("METADATA") or ""  # metadata.version parses all: 8 ms
            packages[name] = headers.partition("\nVersion: ")[2].partition("\n")[0]
    return {
        "sia_runner": __version__,
        "git": _git_revision(),
        "config_sha256": hashlib.sha256(config.model_dump_json(by_alias=True).encode()).hexdigest(),
        "overrides": list(overrides),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": packages,
        "data": context.task.data_hashes(),
        "policy": _policy_identity(context),
        "sandbox": {
            "name": sandbox.name,
            **sandbox.versions(),
            "gaps": sandbox.gaps(with_gateway=config.needs_gateway),
        },
        "seeds": {"seed": config.seed, "split_seed": config.split_seed},
    }


def _policy_identity(context: RunContext) -> Json | None:
    """Return name and hash of the policy's base, for comparing runs; where jobs load it, by its files alone."""
    config, spec = context.config, context.config.target_agent.policy
    if not config.has_policy or not context.gateway:
        return None
    if context.compute.apart and spec.backend in ("peft", "vllm") and spec.base != "tiny":
        return {"base": spec.base, "sha256": weights_sha256(base_folder(spec.base))}
    engine = context.gateway.policy()
    return {"base": engine.base_id, "sha256": engine.base_sha256}


def _git_revision() -> str | None:
    """Return the git revision of the checkout that this package runs from; None for an installed wheel."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=5).stdout.strip() or None
    return None


def check_dashboard(config: Experiment) -> None:
    """Raise RunDirectoryError where the dashboard is requested but its packages are missing."""
    for name in _DASHBOARD_PACKAGES if config.web else ():
        if importlib.util.find_spec(name) is None:
            raise RunDirectoryError(f"web=true needs {name}: pip install 'sia-runner[web]'; or web=false")


@contextmanager
def live_dashboard(config: Experiment, run: RunDir, say: Callable[[str], None]) -> Generator[None]:
    """Start the dashboard of the run and pass its address, with a token in it, to `say`; report problems, and go on."""
    if not config.web:
        yield
        return
    options = ["port=0", *os.environ.get("SIA_WEB", "").split(), "token=true", "until=stdin"]
    command, pipe = [sys.executable, "-m", "sia_runner", "web", f"runs_dir={run.path}", *options], subprocess.PIPE
    process = subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)

    def forward_lines() -> None:
        for line in process.stdout or ():
            say(line.rstrip())

    reader = threading.Thread(target=forward_lines, daemon=True)
    reader.start()
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()  # this ends it; the reader thread closes its output
        process.wait()
        reader.join()


def start_run(config: Experiment, folder: Path, overrides: Sequence[str]) -> int:
    """Start a run in `folder` (may exist, must not hold a run) and return its exit code."""
    run = RunDir(folder)
    if run.config.exists() or run.journal.exists():
        advice = f"continue it with resume={folder} or choose another hydra.run.dir"
        raise RunDirectoryError(f"{folder} already holds a run; {advice}")
    config = with_equal_budget(config)
    context = RunContext(config, run)
    with ExitStack() as stack:
        stack.callback(context.close_servers)  # whatever refuses or ends the run
        prepare_run(context)
        folder.mkdir(parents=True, exist_ok=True)
        lease = stack.enter_context(RunLease(folder))
        if run.config.exists():  # another process was faster between our check and the lease
            raise RunDirectoryError(f"{folder} already holds a run; continue it with resume={folder}")
        write_text(run.config, yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False, allow_unicode=True))
        return _carry_out(context, lease, overrides)


def resume_run(folder: Path, overrides: Sequence[str], answer: sign_off.SignOffAnswer | None = None) -> int:
    """Continue a run at the step that was cut off and return its exit code; `answer` is to the plan that waits.

    Raises RunDirectoryError when no plan waits, and for overrides other than RESUMABLE_KEYS and task.dir.
    """
    run = RunDir(folder)
    if not run.config.is_file():
        raise RunDirectoryError(f"resume={folder}: no run there (config.yaml is missing)")
    for override in overrides:
        if "=" not in override or not override.startswith((*RESUMABLE_KEYS, "task.dir=")):
            allowed = "max_gen=…, budget.*=…, compute.*=…, provider.key_file=…, task.dir=… of a moved folder"
            raise RunDirectoryError(
                f"{override}: a resumed run keeps its stored configuration; allowed beside resume=: {allowed}"
            )
    with RunLease(folder) as lease, ExitStack() as stack:
        if answer:
            sign_off.check_waiting(run, JournalReader(run.journal))
        overrides = [_with_absolute_path(override) for override in overrides]  # the journal keeps them
        context = RunContext(stored_config(run, overrides), run)
        others = [override for override in overrides if not override.startswith("target_agent.policy.")]
        _check_policy_change(stored_config(run, others), context.config)
        stack.callback(context.close_servers)
        prepare_run(context)
        return _carry_out(context, lease, overrides, answer)


def _check_policy_change(before: Experiment, after: Experiment) -> None:
    """Raise RunDirectoryError unless the policy is the same, or the run leaves a service for a base vouched for."""
    old, new = before.target_agent.policy, after.target_agent.policy
    changed = [name for name in _POLICY_KEYS if getattr(old, name) != getattr(new, name)]
    if not changed:
        return
    key = f"target_agent.policy.{changed[0]}={getattr(new, changed[0])}"
    if old.backend != "tinker":
        raise RunDirectoryError(f"{key}: a resumed run keeps its policy; only a run with backend=tinker can leave it")
    if new.backend == "tinker" or not new.trust_base:
        vouch = "target_agent.policy.backend=peft or vllm with target_agent.policy.trust_base=true"
        raise RunDirectoryError(f"{key}: a run leaves its service with {vouch}: you vouch that the base is the same")


def _with_absolute_path(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={Path(value).expanduser().resolve()}" if key.endswith((".key_file", "task.dir")) else override


def existing_run(folder: Path) -> RunDir:
    """Return the run directory `folder`. Raises RunDirectoryError if it is none."""
    run, sweep = RunDir(folder), (folder / "plan.json").is_file()
    if not run.config.is_file():
        hint = "; it is a sweep: name one of its runs" if sweep else ""
        raise RunDirectoryError(f"{folder}: no run there (config.yaml is missing){hint}")
    return run


def stored_config(run: RunDir, overrides: Sequence[str] = ()) -> Experiment:
    """Return the run's configuration with the overrides of every resume so far, and `overrides` on top."""
    composed = read_stored_config(run.config)
    earlier: list[str] = []
    if run.journal.is_file():
        earlier = [text for entry in JournalReader(run.journal).of("resumed") for text in entry["overrides"]]
    for override in map(_with_absolute_path, [*migrate_overrides(earlier), *overrides]):
        key, _, value = override.partition("=")
        if renamed_key(key) != key:
            raise RunDirectoryError(f"{override}: renamed; use {renamed_key(key)}=…")
        *sections, name = key.split(".")
        tree: Json = composed
        for section in sections:
            tree = tree.get(section) or {}
        if name not in tree:
            raise RunDirectoryError(f"{override}: no such key; there is: {', '.join(tree)}")
        try:
            tree[name] = value if name in ("key_file", "dir") else yaml.safe_load(value)
        except yaml.YAMLError:
            raise RunDirectoryError(f"{override}: the value is no YAML; quote it") from None
    config = check_experiment(composed)
    if (folder := getattr(config.task, "dir", None)) and not Path(folder).is_dir():
        remedy = "if it was moved: resume RUN_DIR task.dir=DIR, verify --task-dir DIR RUN_DIR"
        raise RunDirectoryError(f"{folder} is missing (task.dir of the run); {remedy}")
    return config


def prepare_run(context: RunContext) -> None:
    """Make all checks that can refuse a run before anything of it exists, the cheapest first."""
    if not sys.platform.startswith("linux"):
        raise RunDirectoryError("SIA Runner runs on Linux; on macOS use Docker, on Windows WSL2")
    config = context.config
    check_dashboard(config)
    gateway = context.gateway
    if gateway:
        gateway.check()
    context.build_all()
    check_custom_classes(config)
    context.sandbox.check(with_gateway=config.needs_gateway)
    with suppress(PolicyError):  # of a base whose memory is not computed: it is loaded, and may fail there
        list(fit_lines(config))
    context.compute.check(job_kinds(config))
    verifier_sandbox.check_gpu(config, here=not context.compute.apart)
    verifier_sandbox.check_machine(context)
    context.task.prepare(lambda text: print(text, flush=True))
    if config.trainer.kind != "none":
        task, units = context.task, context.task.splits()["rollout"]
        if not units:
            raise TaskError(f"task={task.name} has no rollout questions to train on; allowed with it: trainer=none")
        task.rounds("rollout", units=units[:1])  # raises TaskError for a metric of all questions together
    if gateway and config.has_policy:
        if context.servers and not context.compute.apart:
            context.servers.start()
        # loaded now where it answers here: the time must not count for the first harness
        check_adapters(config, None if context.compute.apart else gateway.policy())


def check_custom_classes(config: Experiment) -> None:
    """Raise ComponentError if an accept rule or an algorithm of the user's own, used later, cannot be used."""
    accept_rule(config)
    for algorithm in allowed_algorithms(config.trainer).values():
        if is_custom(algorithm.algorithm):
            from sia_runner.training.algorithms.base import custom_algorithm_class

            custom_algorithm_class(algorithm)


def job_kinds(config: Experiment) -> list[str]:
    """Return the kinds of jobs that this run may have: its stages, and the vLLM servers that these share."""
    kinds: list[str] = [Stage.PROPOSE, Stage.GATE, Stage.RUN, Stage.VERIFY, Stage.TEST]
    kinds += [] if config.trainer.kind == "none" else [Stage.TRAIN]
    return [*kinds, SERVERS] if config.shares_servers else kinds


def _carry_out(
    context: RunContext, lease: RunLease, overrides: Sequence[str], answer: sign_off.SignOffAnswer | None = None
) -> int:
    config, run = context.config, context.run
    journal = Journal(run.journal)
    context.record_event = journal.append
    resume_garbage_collection()
    try:
        _open_journal(context, journal, overrides)
        if answer:
            sign_off.append_answer(run, journal, answer)
        with Display(config.max_gen) as display, _signals(), live_dashboard(config, run, display.say):
            opening = [
                *config.notes,
                *sandbox_lines(context.sandbox.name, context.sandbox.gaps(with_gateway=config.needs_gateway)),
            ]
            for line in [line for line in opening if line not in _printed_lines]:
                display.say(line)
            _printed_lines.update(opening)
            if warning := _untrainable_start(context):
                display.say(warning)
            for line in _too_slow(context, journal):
                display.say(f"warning: {line}; raise it, or ask fewer questions or for shorter answers")
            loop_class = ExperimentLoop if config.search.parallel_candidates == 1 else ConcurrentLoop
            return _run_loop(context, loop_class(context, journal, lease, display), journal, display)
    finally:
        context.close_gateway()  # or another run of this process would keep the weights in memory
        context.close_servers()
        journal.close()
        context.tracker.close()


def _untrainable_start(context: RunContext) -> str:
    """Return a warning if weights may be trained and the first harness names no model; empty otherwise."""
    trainer, start = context.config.trainer, context.reference_harness
    if trainer.kind == "none" or isinstance(context.config.meta_agent, ReplayConfig):
        return ""
    programs = [start] if start.is_file() else sorted(start.rglob("*.py"))
    if any(_MODEL_NAMES.search(path.read_text(encoding="utf-8", errors="replace")) for path in programs):
        return ""
    return (
        f"warning: trainer={trainer.name}, but the first harness ({start}) names no model (OPENAI_BASE_URL, "
        "SIA_MODEL): the weights cannot be trained until a harness calls it; docs/harness.md shows how"
    )


def _too_slow(context: RunContext, journal: Journal) -> list[str]:
    """Measure a policy of this process, and return the time limits that it is too slow for; at the start only."""
    spec, gateway = context.config.target_agent.policy, context.gateway if context.config.has_policy else None
    in_process = spec.backend == "peft" and spec.base != "tiny" and not context.compute.apart
    if gateway is None or not in_process or next(journal.of("done"), None):
        return []
    from sia_runner.policy.engine import sampling_speed

    with suppress(PolicyError):  # the first step says what is wrong
        speed = sampling_speed(gateway.policy())
        return costs.limit_lines(context.config, costs.task_sizes(context.task, 0, speed))
    return []


def _open_journal(context: RunContext, journal: Journal, overrides: Sequence[str]) -> None:
    run, began = context.run, next(journal.of("began"), None)
    if began is None:
        write_json(run.lock, _lock_content(context, overrides))
        journal.append("began", config_sha256=sha256_of(run.config), lock_sha256=sha256_of(run.lock))
        return
    if sha256_of(run.lock) != began["lock_sha256"]:
        raise RunDirectoryError(f"{run.lock} was changed since the run began")
    hashes, locked = context.task.data_hashes(), read_json(run.lock)["data"]
    if changed := sorted(name for name in {*hashes, *locked} if hashes.get(name) != locked.get(name)):
        what = f"the data changed since the run began ({', '.join(changed)})"
        raise RunDirectoryError(f"{what}; a resumed run needs the same data")
    current = _lock_content(context, overrides)
    journal.append("resumed", **{key: current[key] for key in ("overrides", "packages", "host", "sandbox")})


def _run_loop(context: RunContext, loop: ExperimentLoop, journal: Journal, display: Display) -> int:
    try:
        return loop()
    except KeyboardInterrupt:  # RunInterrupted too
        context.compute.end()
        return loop.interrupted()
    except sign_off.WaitingForApproval:
        return loop.interrupted(waits=True)
    except LeaseHeldError as error:  # another process continues this run: write nothing more
        display.say(f"stopped: {error}")
        return INTERRUPTED
    except (SandboxFailed, ProviderDown, JobStopped, OSError) as error:  # not the candidate's fault: resumable
        display.say(f"stopped: {error}")
        return loop.interrupted()
    except Exception:
        journal.append("crashed", traceback=traceback.format_exc()[-4000:])
        raise


def stop_requested() -> bool:
    """Return whether a signal asked this process to end; the run answered it with its exit code."""
    return bool(_stop_signals)


@contextmanager
def _signals() -> Generator[None]:
    """Let the first Ctrl-C or SIGTERM (SLURM) end the run cleanly and resumably, and the second one at once."""
    _stop_signals.clear()

    def stop(signum: int, frame: object) -> None:
        _stop_signals.append(signum)
        if len(_stop_signals) > 1:
            os._exit(INTERRUPTED)  # the supervisors see the closed pipe and kill what still runs
        raise RunInterrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
