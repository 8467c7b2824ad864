"""Trouble with W&B is nobody's trouble but W&B's: the run is the same, and there is one warning."""

import os
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.conftest import Cli
from tests.harnesses import MAJORITY, WORDS
from tests.tracking import offline
from tests.tracking.conftest import CRASHES, OFFLINE, generations, kill_all, secrets_task, sender_ended, sync, told
from tests.tracking.server import serving
from tests.wandb_server import KEY


@pytest.mark.parametrize("behaviour", [pytest.param("hangs", marks=pytest.mark.slow), "401", "500", "is gone"])
def test_a_bad_endpoint_changes_nothing_but_one_warning(tracked, tmp_path, behaviour):
    cli = Cli(tmp_path)
    with serving() as server:
        server.behaviour = behaviour
        env = {**OFFLINE, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        if behaviour == "is gone":
            server.server_close()
        task = secrets_task(tmp_path / "secrets")
        done = cli(*task, "tracker=wandb", "tracker.wait=60", *cli.replay(MAJORITY, WORDS, CRASHES), env=env)
    assert done.returncode == 0
    (line,) = told(done.stderr)
    assert "W&B is kept offline" in line and KEY not in done.stderr
    assert generations(cli) == generations(tracked)
    assert [row["generation"] for row in offline.verdicts(cli.run)] == [1, 2, 3]


@pytest.mark.slow
def test_a_server_that_dies_under_way_is_left_behind_after_the_wait(tmp_path):
    cli = Cli(tmp_path)
    with serving() as server:
        env = {**OFFLINE, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        slow = "import time; time.sleep(6)\n" + WORDS
        run = cli.start("tracker=wandb", "tracker.wait=1", *cli.replay(MAJORITY, slow), env={**os.environ, **env})
        until = time.monotonic() + 60
        while not server.runs and time.monotonic() < until:
            time.sleep(0.05)
        assert server.runs
        server.behaviour = "hangs"
        output, _ = run.communicate(timeout=90)
    assert run.returncode == 0
    kill_all(cli.run)  # it would go on for ten minutes
    (line,) = told(output)
    assert f"python -m sia_runner sync {cli.run}" in line and cli.summary["status"] == "completed"


@contextmanager
def full_disk(folder):
    """A disk of its own for `folder`, on which there is room for next to nothing."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here, which takes root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_one_warning_and_what_was_not_told_can_be_pushed(tracked, tmp_path):
    cli = Cli(tmp_path)
    task = secrets_task(tmp_path / "secrets")
    late = MAJORITY + "time.sleep(1)\n"  # the run directory is there before anything is told
    with serving() as server:
        env = {**os.environ, **OFFLINE, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        run = cli.start(*task, "tracker=wandb", "tracker.wait=60", *cli.replay(late, WORDS, CRASHES), env=env)
        until = time.monotonic() + 60
        while not (cli.run / "journal.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.01)
        with full_disk(cli.run / "tracking"):
            output, _ = run.communicate(timeout=120)
            assert sender_ended(cli.run)
        assert run.returncode == 0 and generations(cli) == generations(tracked)
        (line,) = told(output)
        assert "No space left on device" in line and f"python -m sia_runner sync {cli.run}" in line
        assert sync(cli.run, server).returncode == 0
        (there,) = server.runs.values()
        assert [row["generation"] for row in there["rows"]] == [1, 2, 3]


def test_without_the_package_figures_go_to_the_local_file(tmp_path):
    cli = Cli(tmp_path)
    (tmp_path / "wandb").mkdir()  # as wandb makes them in a working directory
    blocked = tmp_path / "site"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(BLOCKING)
    paths = ":".join(filter(None, [str(blocked), os.environ.get("PYTHONPATH", "")]))
    done = cli("tracker=wandb", *cli.replay(MAJORITY), env={**OFFLINE, "PYTHONPATH": paths})
    (line,) = told(done.stderr)
    assert done.returncode == 0 and "pip install 'sia-runner[tracking]'" in line
    assert (cli.run / "metrics.csv").is_file() and not (cli.run / "tracking").exists()


BLOCKING = """
import importlib.machinery, sys
class Blocked(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "wandb" else importlib.machinery.PathFinder.find_spec(name, path, target)
sys.meta_path = [Blocked if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
