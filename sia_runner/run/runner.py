"""Start a run, or continue one: checks, run directory, lease, journal, then the loop."""

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
from sia_runner.run import dashboard
from sia_runner.run.display import Display
from sia_runner.run.lock import check_data, lock
from sia_runner.run.steady import Steady
from sia_runner.rundir import RunDir, RunError, read_json, sha256_of, write_json, write_text
from sia_runner.tasks.protocol import Task, TaskError

RESUMABLE = ("max_gen", "budget.", "compute.")  # what may be given beside resume=
_asked: list[int] = []  # the signals that asked this process to stop


def start(config: Experiment, folder: Path, overrides: Sequence[str]) -> int:
    """A new run in `folder` (may exist, must not hold a run). Returns the exit code."""
    run = RunDir(folder)
    if run.config.exists() or run.journal.exists():
        raise RunError(
            f"{folder} already holds a run; continue it with resume={folder} or choose another hydra.run.dir"
        )
    _make_ready(config, run)
    folder.mkdir(parents=True, exist_ok=True)
    with Lease(folder) as lease:
        if run.config.exists():  # somebody was faster between our look and the lease
            raise RunError(f"{folder} already holds a run; continue it with resume={folder}")
        write_text(run.config, yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False, allow_unicode=True))
        return _carry_out(config, run, lease, overrides)


def resume(folder: Path, overrides: Sequence[str], answer: approval.Answer | None = None) -> int:
    """Continue after any kill at the step that was cut. `overrides` may name only what RESUMABLE lists. `answer`: to
    the plan that waits for one; RunError when none does."""
    run = RunDir(folder)
    if not run.config.is_file():
        raise RunError(f"resume={folder}: no run there (config.yaml is missing)")
    for override in overrides:
        if "=" not in override or not override.startswith(RESUMABLE):
            allowed = "max_gen=…, budget.*=…, compute.*=…"
            raise RunError(
                f"{override}: the stored config is the config of a resumed run; allowed beside resume=: {allowed}"
            )
    with Lease(folder) as lease:
        if answer:
            approval.check(run, Record(run.journal))
        config = stored_config(run, overrides)
        _make_ready(config, run)
        return _carry_out(config, run, lease, overrides, answer)


def stored_config(run: RunDir, overrides: Sequence[str] = ()) -> Experiment:
    """The run's config with what was given at every resume so far, and `overrides` on top."""
    composed = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    earlier: list[str] = []
    if run.journal.is_file():
        earlier = [text for entry in Record(run.journal).of("resumed") for text in entry["overrides"]]
    for override in [*earlier, *overrides]:
        key, _, value = override.partition("=")
        _set(composed, key.split("."), yaml.safe_load(value), override)
    return check(composed)


def _set(tree: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        tree = tree.get(key, {})
    if path[-1] not in tree:
        raise RunError(f"{override}: no such key; there is: {', '.join(tree)}")
    tree[path[-1]] = value


def _make_ready(config: Experiment, run: RunDir) -> None:
    """Everything that can refuse a run, before anything of it exists; what costs least to find out comes first."""
    if not sys.platform.startswith("linux"):
        raise RunError("SIA Runner runs on Linux; on macOS use Docker, on Windows WSL2")
    dashboard.check(config)
    gateway = models(config, run)
    if gateway:
        gateway.check()
    room = rooms(config)
    room.sandbox.check(door=config.needs_door)
    room.compute.check(kinds(config))
    chamber.check(config, here=not room.compute.apart)
    room.task.prepare(lambda text: print(text, flush=True))
    if config.trainer.kind != "none":
        _check_rollouts(room.task)
    if gateway and config.has_policy and not room.compute.apart:
        gateway.policy()  # loading takes its time, which is not the first harness's


def kinds(config: Experiment) -> list[str]:
    """Of the stages that this run may have."""
    return ["propose", "gate", "run", "verify", "test"] + ["train"] * (config.trainer.kind != "none")


def _check_rollouts(task: Task) -> None:
    """Raises TaskError where nothing rewards: no questions, or a metric of all questions together."""
    units = task.splits()["rollout"]
    if not units:
        raise TaskError(f"task={task.name} has no rollout questions to train on; allowed with it: trainer=none")
    task.rounds("rollout", units=units[:1])


def _carry_out(
    config: Experiment, run: RunDir, lease: Lease, overrides: Sequence[str], answer: approval.Answer | None = None
) -> int:
    journal = Journal(run.journal)
    try:
        _open(config, run, journal, overrides)
        if answer:
            approval.sign(journal, approval.check(run, journal), answer)
        with Display(config.max_gen) as display, _signals(), dashboard.dashboard(config, run, display.say):
            for gap in rooms(config).sandbox.gaps(door=config.needs_door):
                display.say(f"sandbox {rooms(config).sandbox.name} leaves open: {gap}")
            loop = _loop(config)(config, run, journal, lease, display)
            return _guarded(loop, journal, display)
    finally:
        close_models(config, run)  # and forget them: another run of this process would hold their weights
        journal.close()
        rooms(config).tracker.close()


def _loop(config: Experiment) -> type[Loop]:
    return Loop if config.search.in_flight == 1 else Steady


def _open(config: Experiment, run: RunDir, journal: Journal, overrides: Sequence[str]) -> None:
    if any(journal.of("began")):
        began = next(journal.of("began"))
        if sha256_of(run.lock) != began["lock_sha256"]:
            raise RunError(f"{run.lock} was changed since the run began")
        check_data(config, read_json(run.lock))
        now = lock(config, run, overrides)
        journal.append(
            "resumed", overrides=list(overrides), packages=now["packages"], host=now["host"], sandbox=now["sandbox"]
        )
        return
    write_json(run.lock, lock(config, run, overrides))
    journal.append("began", config_sha256=sha256_of(run.config), lock_sha256=sha256_of(run.lock))


def _guarded(loop: Loop, journal: Journal, display: Display) -> int:
    try:
        return loop()
    except (KeyboardInterrupt, Interrupted):
        return loop.interrupted()
    except approval.Waiting:
        return loop.waits()
    except Held as error:  # somebody else goes on with this run: not a byte more from us
        display.say(f"stopped: {error}")
        return INTERRUPTED
    except (SandboxFailed, ProviderDown, Stopped, OSError) as error:  # not the candidate's fault: nothing is lost
        display.say(f"stopped: {error}")
        return loop.interrupted()
    except Exception:
        journal.append("crashed", traceback=traceback.format_exc()[-4000:])
        raise


def asked_to_stop() -> bool:
    """Did somebody tell this process to end, by a signal that a run answered with its exit code?"""
    return bool(_asked)


@contextmanager
def _signals() -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM: SLURM) ends the run cleanly and resumably, the second at once."""
    _asked.clear()

    def stop(signum: int, frame: object) -> None:
        _asked.append(signum)
        if len(_asked) > 1:
            os._exit(INTERRUPTED)  # the supervisors see the closed pipe and kill what still runs
        raise Interrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
