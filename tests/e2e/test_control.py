"""Control arms on the smoke task: the same start, the budget of a finished run, and what the report makes of them."""

import csv
import json
import subprocess
import sys

import pytest

from sia_runner.config.migration import read_stored_config
from tests.conftest import Cli
from tests.harnesses import WORDS

# Says at random whether it knows the answer, as a model at temperature 1 would: votes are better than one sample.
UNSURE = """
import csv, random, sys
from collections import Counter
data, work = sys.argv[2], sys.argv[4]
rows = list(csv.DictReader(open(f"{data}/train.csv")))
by_word = {}
for row in rows:
    for word in row["text"].lower().split():
        by_word.setdefault(word, Counter())[row["label"]] += 1
labels = sorted({row["label"] for row in rows})
with open(f"{work}/submission.csv", "w", newline="") as stream:
    out = csv.writer(stream)
    out.writerow(["id", "label"])
    for row in csv.DictReader(open(f"{data}/questions.csv")):
        votes = Counter()
        for word in row["text"].lower().split():
            counts = by_word.get(word, Counter())
            if counts:
                votes[counts.most_common(1)[0][0]] += counts.most_common(1)[0][1] / counts.total() - 1 / len(labels)
        known = votes.most_common(1)[0][0] if votes else labels[0]
        out.writerow([row["id"], known if random.random() < 0.4 else random.choice(labels)])
"""


def command(*args):
    done = subprocess.run(
        [sys.executable, "-m", "sia_runner", *map(str, args)], capture_output=True, text=True, check=False, timeout=280
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def improved(_own_cache, tmp_path_factory):
    """A run that replays an unsure harness, then a better one."""
    cli = Cli(tmp_path_factory.mktemp("control"))
    cli.run = cli.folder / "improved"
    done = cli("task=smoke", *cli.replay(UNSURE, WORDS))
    assert done.returncode == 0, done.stdout + done.stderr
    return cli


def control(cli, name, *overrides):
    cli.run = cli.folder / name
    replayed = ["meta_agent=replay", f"meta_agent.dir={cli.folder / 'harnesses'}"]
    like = f"control.like={cli.folder / 'improved'}"
    done = cli("task=smoke", *replayed, "+experiment=control", like, *overrides, timeout=250)
    return done, cli.run


@pytest.mark.slow
def test_both_arms_begin_alike_spend_the_budget_of_the_run_and_are_rows_of_their_own(improved):
    done, votes = control(improved, "votes", "control.seconds=90")
    assert done.returncode == 0, done.stdout + done.stderr
    settings = read_stored_config(votes / "config.yaml")["control"]
    assert settings["source"].startswith("improved, journal ") and settings["seconds"] == 90
    first, second = json.loads((votes / "summary.json").read_text())["generations"][:2]
    assert (votes / "gen_1/harness/target_agent.py").read_text() == UNSURE
    samples = json.loads((votes / "gen_2/harness/voting.json").read_text())["samples"]
    assert samples >= 5 and second["title"] == f"vote of {samples} samples" and second["status"] == "accepted"
    assert second["val"]["value"] > first["val"]["value"] + 0.1  # what the samples have in common is right
    assert command("verify", votes)[0] == 0

    # the second harness of the folder would be found by a search that is shown nothing, too
    done, random = control(improved, "random", "control.arm=random", "control.seconds=60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (random / "gen_2" / "evidence").exists()
    assert command("verify", random)[0] == 0

    page = improved.folder / "page.html"
    code, output = command("report", improved.folder / "improved", votes, random, f"out={page}")
    assert code == 0, output
    modes = {row["run"]: row["mode"] for row in csv.DictReader(page.with_suffix(".runs.csv").open())}
    assert (modes["votes"], modes["random"]) == ("control-votes", "control-random")
    pairs = [(row["old"], row["new"]) for row in csv.DictReader(page.with_suffix(".pairs.csv").open())]
    assert {("votes", "improved"), ("random", "improved")} <= set(pairs)
    text = page.with_suffix(".md").read_text()
    assert "| Control |" in text and "against an equal budget without improvement" in text
    assert "survives" in page.read_text()


@pytest.mark.slow
def test_a_run_that_is_not_comparable_is_refused_by_name(earlier_runs, cli):
    run = earlier_runs / "sia_h"
    for overrides, why in (
        ((f"control.like={run}", "seed=99"), "its seed is"),
        ((f"control.like={run}", "meta_agent=replay", "meta_agent.dir=."), "its meta_agent.name is recipes"),
        ((f"control.like={earlier_runs}", "seed=99"), "finished runs of task=smoke seed=99"),
    ):
        done = cli("task=smoke", "+experiment=control", *overrides)
        assert done.returncode == 2 and why in done.stderr and not cli.run.exists(), done.stderr
