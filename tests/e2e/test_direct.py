"""A person directs a run that goes on, and one that stands still; everything that shows the run says so."""

import csv
import json
import os
import subprocess
import sys
import time

import pytest

PROPOSER = '''
"""Proposes a fixed program and repeats what it was told; the first proposal waits until there is a note."""

import time
from pathlib import Path

from sia_runner.records import Lever, Proposal


class Listener:
    def __init__(self, context, *, folder):
        self._folder, self._program = Path(folder), context.reference

    def propose(self, brief, workbench):
        while brief.n == 1 and not [*self._folder.glob("*.json")]:
            time.sleep(0.05)
        files = {"target_agent.py": f"# {brief.n}\\n" + next(self._program.rglob("target_agent.py")).read_text()}
        return Proposal(Lever.HARNESS, " / ".join(brief.directions) or "nothing", files=files, title="listened")
'''


def command(*args):
    done = subprocess.run(
        [sys.executable, "-m", "sia_runner", *map(str, args)], capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def rationale(cli, n):
    return json.loads((cli.run / f"gen_{n}" / "proposal.json").read_text())["rationale"]


@pytest.mark.slow
def test_notes_reach_the_next_proposal_and_make_the_run_no_fair_arm(cli, monkeypatch):
    (cli.folder / "listener.py").write_text(PROPOSER)
    (cli.folder / "mine" / "meta_agent").mkdir(parents=True)
    settings = {"name": "listener", "_target_": "listener.Listener", "folder": f"{cli.run}/directions"}
    (cli.folder / "mine" / "meta_agent" / "listener.yaml").write_text(json.dumps(settings))
    monkeypatch.setenv("PYTHONPATH", f"{cli.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    overrides = ["task=smoke", "meta_agent=listener", "max_gen=2", f"hydra.run.dir={cli.run}"]
    going = cli.start("--config-dir=mine", *overrides)
    try:
        until = time.monotonic() + 100
        while not (cli.run / "gen_1").is_dir():
            assert going.poll() is None and time.monotonic() < until, going.stdout.read()
            time.sleep(0.05)
        code, output = command("direct", cli.run, "look at the \x1b[1mdate formats")
        assert code == 0 and "resume" not in output, output
        output, _ = going.communicate(timeout=100)
    finally:
        going.kill()
    assert going.returncode == 0, output
    assert (rationale(cli, 1), rationale(cli, 2)) == ("nothing", "look at the [1mdate formats")
    assert "no fair arm: directed by a person, 1 note" in output

    code, output = command("direct", cli.run, "and at numbers")  # the run has ended
    assert code == 0 and f"resume {cli.run} max_gen=N" in output
    assert "directions" in cli.summary and len(cli.summary["directions"]) == 1  # no proposal was told it yet
    code, output = command("resume", cli.run, "max_gen=3")
    assert code == 0, output
    assert rationale(cli, 3) == "look at the [1mdate formats / and at numbers"
    assert [(note["n"], note["text"]) for note in cli.summary["directions"]] == [
        (2, "look at the [1mdate formats"),
        (3, "and at numbers"),
    ]
    assert command("verify", cli.run)[0] == 0
    assert 'before generation 3: "and at numbers"' in (cli.run / "context.md").read_text()

    page = cli.folder / "page.html"
    assert command("report", cli.run, f"out={page}")[0] == 0
    assert "directed by a person before generation 2" in page.read_text()
    assert "No fair arms" in page.with_suffix(".md").read_text()
    (row,) = csv.DictReader(page.with_suffix(".runs.csv").open())
    assert row["directed"] == "2"


def test_a_proposer_that_reads_no_notes_refuses_them(earlier_runs):
    run = earlier_runs / "sia_h"
    code, output = command("direct", run, "look at the dates")
    assert code == 2 and output.count("\n") == 1 and "meta_agent=recipes reads no notes" in output
    assert not (run / "directions").exists()
    code, output = command("direct", earlier_runs, "look at the dates")
    assert code == 2 and "no run there" in output
