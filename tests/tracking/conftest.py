"""Runs of the real command line with tracker=wandb. wandb itself is needed; without it these tests skip loudly."""

import csv
import importlib.util
import os
import re
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from tests.conftest import Cli
from tests.harnesses import MAJORITY, WORDS

OFFLINE = {"WANDB_API_KEY": "", "WANDB_MODE": "online", "NETRC": "/dev/null"}  # whatever whoever runs the tests has
CRASHES = (
    "import csv, sys\nsys.exit('KeyError: ' + next(csv.DictReader(open(sys.argv[2] + '/questions.csv')))['text'])\n"
)


# Every gold answer and every question is like nothing else in the world, so that a trace of one is proof.
SECRET_KEY = "sk-0123456789abcdef-of-another-service"
DATA = """
import argparse, csv, hashlib, pathlib, random
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
out, rng = parser.parse_args().out, random.Random(0)
def secret(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
def row(part, n):
    kind = rng.choice(["even", "odd", "rare"])
    return [f"{part}{n}", f"{kind} question {secret(part, n)}", "gold" + secret(kind, n if kind == "rare" else 0)]
def write(name, head, rows):
    with (out / name).open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])
labelled, test = [row("l", n) for n in range(200)], [row("t", n) for n in range(60)]
write("labelled.csv", ["id", "text", "label"], labelled)
write("test.csv", ["id", "text"], [one[:2] for one in test])
write("answers.csv", ["id", "label"], [[one[0], one[2]] for one in test])
"""


def secrets_task(folder):
    """Overrides for a task of which nothing may be told."""
    (folder / "reference").mkdir(parents=True)
    (folder / "task.md").write_text("Answer each question with its label.\n")
    (folder / "make_data.py").write_text(DATA)
    (folder / "reference" / "target_agent.py").write_text(MAJORITY)
    return ["task=smoke", "task.name=secrets", f"+task.dir={folder}", "+task.splits.stratify=false"]


@pytest.fixture(scope="session", autouse=True)
def _wandb():
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed: pip install 'sia-runner[tracking]'")


@pytest.fixture(scope="session")
def tracked(tmp_path_factory):
    """A finished run of three generations, of which one crashes and prints questions; tracked without a key."""
    cli = Cli(tmp_path_factory.mktemp("tracked"))
    task = secrets_task(cli.folder / "secrets")
    env = {**OFFLINE, "OPENAI_API_KEY": SECRET_KEY}
    done = cli(*task, "tracker=wandb", "tracker.wait=60", *cli.replay(MAJORITY, WORDS, CRASHES), env=env)
    assert done.returncode == 0, done.stderr
    cli.said = done.stderr
    return cli


def sender_ended(run, seconds=150):
    """Wait until no sender of the run is left; one that has begun holds its lock. On a busy machine it comes last."""
    from fcntl import LOCK_EX, LOCK_NB, flock

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with (run / "tracking" / "sender.lock").open("a") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0.1)
    return False


def kill_all(run):
    """Whoever works for the run: driver, jobs, the sender with wandb's own service, and what these have started."""
    named = [p for p in psutil.process_iter(["cmdline"]) if any(str(run) in arg for arg in p.info["cmdline"] or [])]
    mine = [p for p in named if p.pid != os.getpid()]
    for process in mine:
        with suppress(psutil.NoSuchProcess):
            for item in (*process.children(recursive=True), process):
                with suppress(psutil.NoSuchProcess):
                    item.kill()


def sync(run, server, *given, key="k" * 40):
    env = {**os.environ, **OFFLINE, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": key}
    command = [sys.executable, "-m", "sia_runner", "sync", str(run), *given]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def told(said):
    """Return the tracker's messages to the user."""
    return [line for line in said.splitlines() if line.startswith("tracker: ")]


def generations(cli):
    """Return a run's decisions. How long a harness took to crash is part of the reason, and is left out."""
    keep = ("n", "status", "val", "outcomes")
    reasons = [re.sub(r"after [\d.]+ s", "", g["reason"]) for g in cli.summary["generations"]]
    return reasons, [{key: g[key] for key in keep} for g in cli.summary["generations"]], cli.summary["best"]


def private_texts(cache):
    """Every question and every gold answer of the task, and a key that was in the environment."""
    yield SECRET_KEY
    for file in cache.rglob("*.csv"):
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                yield from (row[key] for key in ("text", "label") if "gold" in row.get("label", "gold") and key in row)
