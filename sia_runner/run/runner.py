"""Starting or resuming a run: checks, run directory, lease, journal, then the loop."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sia_runner.approve import approval
from sia_runner.candidate import chamber
from sia_runner.candidate.execute import Interrupted, SandboxFailed
from sia_runner.compute.protocol import Stopped
from sia_runner.config import Experiment, check
from sia_runner.ground.journal import Journal, Record
from sia_runner.ground.lease import Held, Lease
from sia_runner.loop import INTERRUPTED, Loop
from sia_runner.models.protocol import ProviderDown
from sia_runner.rooms import close_models, models, rooms
from sia_runner.run.dashboard import check_dashboard, live_dashboard
from sia_runner.run.display import Display
from sia_runner.run.lock import check_data, lock
from sia_runner.run.steady import Steady
from sia_runner.rundir import RunDir, RunError, read_json, sha256_of, write_json, write_text
from sia_runner.tasks.protocol import Task, TaskError

RESUMABLE = ("max_gen", "budget.", "compute.")  # the overrides allowed beside resume=
_stop_signals: list[int] = []  # the signals that asked this process to stop


def start(config: Experiment, folder: Path, overrides: Sequence[str]) -> int:
    """Start a run in `folder` (may exist, must not hold a run) and return its exit code."""
    run = RunDir(folder)
    if run.config.exists() or run.journal.exists():
        raise RunError(
            f"{folder} already holds a run; continue it with resume={folder} or choose another hydra.run.dir"
        )
    _prepare(config, run)
    folder.mkdir(parents=True, exist_ok=True)
    with Lease(folder) as lease:
        if run.config.exists():  # another process was faster between our check and the lease
            raise RunError(f"{folder} already holds a run; continue it with resume={folder}")
        write_text(run.config, yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False, allow_unicode=True))
        return _carry_out(config, run, lease, overrides)


def resume(folder: Path, overrides: Sequence[str], answer: approval.Answer | None = None) -> int:
    """Continue a run at the step that was cut off, and return its exit code.

    `overrides` may name only what RESUMABLE lists. `answer` replies to the plan that waits for approval.
    Raises RunError when no plan waits.
    """
    run = RunDir(folder)
    if not run.config.is_file():
        raise RunError(f"resume={folder}: no run there (config.yaml is missing)")
    for override in overrides:
        if "=" not in override or not override.startswith(RESUMABLE):
            allowed = "max_gen=…, budget.*=…, compute.*=…"
            raise RunError(
                f"{override}: a resumed run keeps its stored configuration; allowed beside resume=: {allowed}"
            )
    with Lease(folder) as lease:
        if answer:
            approval.check(run, Record(run.journal))
        config = stored_config(run, overrides)
        _prepare(config, run)
        return _carry_out(config, run, lease, overrides, answer)


def stored_config(run: RunDir, overrides: Sequence[str] = ()) -> Experiment:
    """Return the run's configuration with the overrides of every resume so far, and `overrides` on top."""
    composed = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    earlier: list[str] = []
    if run.journal.is_file():
        earlier = [text for entry in Record(run.journal).of("resumed") for text in entry["overrides"]]
    for override in [*earlier, *overrides]:
        key, _, value = override.partition("=")
        _set_key(composed, key.split("."), yaml.safe_load(value), override)
    return check(composed)


def _set_key(tree: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        tree = tree.get(key, {})
    if path[-1] not in tree:
        raise RunError(f"{override}: no such key; there is: {', '.join(tree)}")
    tree[path[-1]] = value


def _prepare(config: Experiment, run: RunDir) -> None:
    """Make all checks that can refuse a run before anything of it exists, the cheapest first."""
    if not sys.platform.startswith("linux"):
        raise RunError("SIA Runner runs on Linux; on macOS use Docker, on Windows WSL2")
    check_dashboard(config)
    gateway = models(config, run)
    if gateway:
        gateway.check()
    components = rooms(config)
    components.sandbox.check(door=config.needs_door)
    components.compute.check(kinds(config))
    chamber.check(config, here=not components.compute.apart)
    components.task.prepare(lambda text: print(text, flush=True))
    if config.trainer.kind != "none":
        _check_rollouts(components.task)
    if gateway and config.has_policy and not components.compute.apart:
        gateway.policy()  # load it now: the time must not count for the first harness


def kinds(config: Experiment) -> list[str]:
    """Return the names of the stages that this run may have."""
    return ["propose", "gate", "run", "verify", "test"] + ["train"] * (config.trainer.kind != "none")


def _check_rollouts(task: Task) -> None:
    """Raise TaskError where nothing can be rewarded: no rollout questions, or a metric of all questions together."""
    units = task.splits()["rollout"]
    if not units:
        raise TaskError(f"task={task.name} has no rollout questions to train on; allowed with it: trainer=none")
    task.rounds("rollout", units=units[:1])


def _carry_out(
    config: Experiment, run: RunDir, lease: Lease, overrides: Sequence[str], answer: approval.Answer | None = None
) -> int:
    journal = Journal(run.journal)
    try:
        _open_journal(config, run, journal, overrides)
        if answer:
            approval.sign(journal, approval.check(run, journal), answer)
        with Display(config.max_gen) as display, _signals(), live_dashboard(config, run, display.say):
            for gap in rooms(config).sandbox.gaps(door=config.needs_door):
                display.say(f"sandbox {rooms(config).sandbox.name} leaves open: {gap}")
            loop = _loop_class(config)(config, run, journal, lease, display)
            return _run_loop(loop, journal, display)
    finally:
        close_models(config, run)  # or another run of this process would keep the weights in memory
        journal.close()
        rooms(config).tracker.close()


def _loop_class(config: Experiment) -> type[Loop]:
    return Loop if config.search.in_flight == 1 else Steady


def _open_journal(config: Experiment, run: RunDir, journal: Journal, overrides: Sequence[str]) -> None:
    if any(journal.of("began")):
        began = next(journal.of("began"))
        if sha256_of(run.lock) != began["lock_sha256"]:
            raise RunError(f"{run.lock} was changed since the run began")
        check_data(config, read_json(run.lock))
        current = lock(config, run, overrides)
        journal.append(
            "resumed",
            overrides=list(overrides),
            packages=current["packages"],
            host=current["host"],
            sandbox=current["sandbox"],
        )
        return
    write_json(run.lock, lock(config, run, overrides))
    journal.append("began", config_sha256=sha256_of(run.config), lock_sha256=sha256_of(run.lock))


def _run_loop(loop: Loop, journal: Journal, display: Display) -> int:
    try:
        return loop()
    except (KeyboardInterrupt, Interrupted):
        return loop.interrupted()
    except approval.Waiting:
        return loop.wait_for_approval()
    except Held as error:  # another process continues this run: write nothing more
        display.say(f"stopped: {error}")
        return INTERRUPTED
    except (SandboxFailed, ProviderDown, Stopped, OSError) as error:  # not the candidate's fault: resumable
        display.say(f"stopped: {error}")
        return loop.interrupted()
    except Exception:
        journal.append("crashed", traceback=traceback.format_exc()[-4000:])
        raise


def asked_to_stop() -> bool:
    """Return whether a signal asked this process to end; the run answered it with its exit code."""
    return bool(_stop_signals)


@contextmanager
def _signals() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM (SLURM) end the run cleanly and resumably, and the second one at once."""
    _stop_signals.clear()

    def stop(signum: int, frame: object) -> None:
        _stop_signals.append(signum)
        if len(_stop_signals) > 1:
            os._exit(INTERRUPTED)  # the supervisors see the closed pipe and kill what still runs
        raise Interrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
