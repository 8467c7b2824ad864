"""The worker pool: each task has one outcome, whatever happens to its workers.

Workers are processes of this machine, started through submitit.
"""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from sia_runner.compute import pool as pool_crew
from sia_runner.compute.local import Local, _ignoring_interrupts
from sia_runner.compute.pool import PoolError, SubmititWorkers, WorkerLost, WorkerPool
from sia_runner.compute.protocol import ComputeStep, JobStopped
from tests.compute import pool_tasks as tasks
from tests.conftest import ROOT

submitit = pytest.importorskip("submitit", reason="compute=local needs sia-runner[slurm]")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def jobs(tmp_path):
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=10)
    return SubmititWorkers(executor, around=_ignoring_interrupts)  # as compute=local does


@pytest.fixture
def pool(tmp_path, jobs):
    with WorkerPool(tmp_path / "pool", jobs, slots=2) as pool:
        yield pool


def collect(pool, count, timeout=60.0):
    """ticket -> result, of so many tickets."""
    tickets = []
    while len(tickets) < count:
        ready = pool.wait_any(timeout)
        assert ready, f"only {tickets} of {count} in {timeout} s"
        tickets += ready
    assert len(set(tickets)) == len(tickets)
    return {ticket: pool.result(ticket) for ticket in tickets}


def until(happened, timeout=30.0):
    end = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_every_task_has_its_own_result_and_no_more_workers_run_than_there_are_slots(pool):
    for n in range(12):
        pool.submit(f"t{n:02}", functools.partial(tasks.where, n))
    results = collect(pool, 12)
    assert [results[f"t{n:02}"][0] for n in range(12)] == list(range(12))
    assert len({process for _, process in results.values()}) <= 2
    assert pool.wait_any() == []


def test_what_a_task_raises_is_raised_here_with_where_it_came_from(pool):
    pool.submit("broken", functools.partial(tasks.divide, 1, 0))
    pool.submit("odd", tasks.raise_what_cannot_travel)
    pool.submit("lambda", tasks.return_what_cannot_travel)
    tickets = set()
    while tickets < {"broken", "odd", "lambda"}:
        tickets |= set(pool.wait_any(60))
    with pytest.raises(ZeroDivisionError) as raised:
        pool.result("broken")
    assert "in divide" in raised.value.__notes__[0]
    with pytest.raises(tasks.Odd, match="1 2"):
        pool.result("odd")
    with pytest.raises(Exception, match="pickle"):
        pool.result("lambda")


def test_a_ticket_that_was_submitted_before_is_not_run_again_until_it_is_forgotten(pool, tmp_path):
    task = functools.partial(tasks.note, tmp_path / "log", "a")
    pool.submit("a", task)
    collect(pool, 1)
    pool.submit("a", task)
    collect(pool, 1)
    assert (tmp_path / "log").read_text() == "a\n"
    pool.forget("a")
    with pytest.raises(KeyError):
        pool.result("a")
    pool.submit("a", task)
    collect(pool, 1)
    assert (tmp_path / "log").read_text() == "a\na\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_task_of_a_dead_worker_goes_to_another(pool, tmp_path, how):
    pool.submit("fatal", functools.partial(tasks.die_the_first_time, tmp_path / "died", how))
    assert collect(pool, 1) == {"fatal": "done"}
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_task_that_takes_its_workers_with_it_is_given_up_and_the_others_are_done(pool):
    pool.submit("fatal", tasks.die)
    pool.submit("good", functools.partial(tasks.where, 7))
    tickets = [*pool.wait_any(60), *pool.wait_any(60)]
    assert sorted(tickets) == ["fatal", "good"] and pool.result("good")[0] == 7
    with pytest.raises(WorkerLost, match="fatal: 3 workers"):
        pool.result("fatal")


@pytest.mark.slow
def test_a_worker_taken_for_dead_ends_before_its_task_is_finished_twice(pool, jobs, tmp_path, monkeypatch):
    """Stopped, and out of reach: a node that does not answer. When it goes on, it finds that it was struck off."""
    monkeypatch.setattr(jobs, "cancel", lambda ids: None)
    monkeypatch.setattr(pool_crew.alive, "gone", lambda who, file, after: who["pid"] in stopped)
    stopped = set()
    pool.submit("slow", functools.partial(tasks.slow_the_first_time, tmp_path / "began", tmp_path / "log"))
    until(lambda: pool.wait_any(0.1) == [] and (tmp_path / "began").exists())
    first = int((tmp_path / "began").read_text())
    os.kill(first, signal.SIGSTOP)
    stopped.add(first)
    assert collect(pool, 1) == {"slow": "second"}
    os.kill(first, signal.SIGCONT)
    until(lambda: not alive(first), 20)
    assert (tmp_path / "log").read_text() == "second\n"


def test_workers_without_work_end_by_themselves_and_come_back(tmp_path, jobs):
    with WorkerPool(tmp_path / "pool", jobs, slots=2, idle=0.5) as pool:
        pool.submit("a", functools.partial(tasks.where, 1))
        first = collect(pool, 1)["a"]
        until(lambda: not alive(first[1]))
        pool.submit("b", functools.partial(tasks.where, 2))
        assert collect(pool, 1)["b"][1] != first[1]


def test_workers_that_never_come_to_life_end_the_wait_with_what_they_said(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'module: not found' >&2; exit 1\n")
    broken.chmod(0o755)
    jobs = SubmititWorkers(submitit.LocalExecutor(tmp_path / "jobs", python=str(broken)))
    with WorkerPool(tmp_path / "pool", jobs, slots=3) as pool, pytest.raises(PoolError, match="module: not found"):
        for n in range(3):
            pool.submit(f"t{n}", functools.partial(tasks.where, 1))
        collect(pool, 1)


def test_an_error_in_the_driver_cancels_the_workers_and_the_next_driver_does_the_rest(tmp_path, jobs):
    log, began = tmp_path / "log", tmp_path / "began"
    with pytest.raises(RuntimeError, match="stop"), WorkerPool(tmp_path / "pool", jobs, slots=1) as pool:
        pool.submit("a", functools.partial(tasks.note, log, "a"))
        collect(pool, 1)
        pool.submit("b", functools.partial(tasks.slow_the_first_time, began, log))
        pool.submit("c", functools.partial(tasks.note, log, "c"))
        until(lambda: pool.wait_any(0.1) == [] and began.exists())
        raise RuntimeError("stop")
    until(lambda: not alive(int(began.read_text())))
    with WorkerPool(tmp_path / "pool", jobs, slots=1) as pool:
        for name in "abc":
            pool.submit(name, functools.partial(tasks.note, log, f"again {name}"))
        collect(pool, 3)
    assert log.read_text().splitlines()[0] == "a" and "again a" not in log.read_text()
    assert sorted(log.read_text().splitlines()[1:]) in (["again b", "again c"], ["again c", "second"])


DRIVER = """
import functools, pathlib, sys, time, submitit
from sia_runner.compute.pool import WorkerPool
from sia_runner.compute.pool import SubmititWorkers
from sia_runner.compute.protocol import ComputeStep, JobStopped
from tests.compute import pool_tasks as tasks
folder = pathlib.Path(sys.argv[1])
executor = submitit.LocalExecutor(folder / "jobs")
executor.update_parameters(timeout_min=10)
with WorkerPool(folder / "pool", SubmititWorkers(executor), slots=2) as pool:
    for n in range(6):
        pool.submit(f"t{n}", functools.partial(tasks.note, folder / "log", str(n), 0.5))
    pool.wait_any()
    print("one is done", flush=True)
    time.sleep(60)
"""


def test_after_the_driver_was_killed_the_next_one_finds_workers_and_results_and_nothing_runs_twice(tmp_path, jobs):
    first = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert first.stdout.readline() == "one is done\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    with WorkerPool(tmp_path / "pool", jobs, slots=2) as pool:
        for n in range(6):
            pool.submit(f"t{n}", functools.partial(tasks.note, tmp_path / "log", str(n), 0.5))
        collect(pool, 6)
    assert sorted((tmp_path / "log").read_text().splitlines()) == list("012345")


def test_a_ticket_is_a_file_name(pool):
    with pytest.raises(ValueError, match="letters, digits"):
        pool.submit("../up", tasks.die)


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def local():
    local = Local(workers=1, jobs=1, pool=1)
    yield local
    local.end()


def step(tmp_path, key, noted, submitted=None):
    return ComputeStep(
        key=key,
        kind=key.rpartition("/")[2],
        folder=tmp_path / "jobs" / key,
        submitted=submitted,
        note=noted.append,
        say=print,
        entry=tasks.carry_out,
    )


def test_steps_of_a_candidate_go_to_workers_and_others_have_a_job_of_their_own(tmp_path, local):
    noted = []
    gate = local.call(step(tmp_path, "gen_1/gate", noted), tasks.where, 1)
    run = local.call(step(tmp_path, "gen_1/run", noted), tasks.where, 2)
    test = local.call(step(tmp_path, "gen_1/test", noted), tasks.where, 3)
    assert (gate[0], run[0], test[0]) == (1, 2, 3)
    assert gate[1] == run[1] != test[1]
    assert [job.startswith("worker:") for job in noted] == [True, True, False]


def test_what_a_step_raises_in_a_worker_is_raised_in_the_driver(tmp_path, local):
    with pytest.raises(ZeroDivisionError):
        local.call(step(tmp_path, "gen_1/run", []), tasks.divide, 1, 0)


@pytest.mark.slow
def test_a_step_that_takes_its_workers_with_it_stops_the_run_with_what_was_last_said(tmp_path, local):
    with pytest.raises(JobStopped, match="gen_1/run: job worker:.* 3 workers"):
        local.call(step(tmp_path, "gen_1/run", []), tasks.die)


def test_a_step_that_an_earlier_driver_gave_to_a_worker_is_waited_for(tmp_path, local):
    """The first driver is gone without a word: its pool is neither closed nor cancelled."""
    first, noted, log = Local(workers=1, jobs=1, pool=1), [], tmp_path / "log"
    waiting = threading.Thread(
        target=lambda: first.call(step(tmp_path, "gen_1/run", noted), tasks.note, log, "once", 1.5), daemon=True
    )
    waiting.start()
    until(lambda: list((tmp_path / "jobs" / "workers" / "spool" / "held").glob("*")) if noted else False)
    assert local.call(step(tmp_path, "gen_1/run", [], noted[0]), tasks.note, log, "again") == "once"
    assert log.read_text() == "once\n"
    waiting.join(10)
