"""spaceship-titanic from the layout that mlebench prepares, through the command line. The data are the wheel's."""

import json
import os
import shutil

import pytest

from sia_runner.system import bundled_folder
from tests.scripts.serving import KEY, Served
from tests.tasks.wheel import wheel_folder

FEW = ["meta_agent.trials=2", "meta_agent.rungs=[1.0]"]
ROWS = 3000  # of the training file, of 7,823: enough for a gain, in half the time


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """DIR/spaceship-titanic/prepared/{public,private}, as `mlebench prepare` leaves it, and a leaderboard beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    data = wheel_folder(folder) / "sia" / "tasks" / "spaceship-titanic" / "data"
    made = folder / "mlebench" / "spaceship-titanic" / "prepared"
    shutil.copytree(data, made)
    (made / "public" / "task.md").rename(made / "public" / "description.md")
    train = made / "public" / "train.csv"
    train.write_text("".join(train.read_text().splitlines(keepends=True)[: ROWS + 1]))
    scores = "".join(f"{k},{0.9 - k / 10000}\n" for k in range(1, 2001))
    (made.parent / "leaderboard.csv").write_text(f"teamId,score\n{scores}")
    return folder / "mlebench"


@pytest.mark.slow
def test_three_generations_end_with_a_test_score_and_its_place_on_the_leaderboard(cli, prepared):
    task = ["task=mlebench", "task.competition=spaceship-titanic", f"task.prepared={prepared}"]
    done = cli(*task, "max_gen=3", *FEW, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = cli.summary
    assert summary["task"] == "mlebench_spaceship-titanic"
    assert [g["status"] for g in summary["generations"]][:2] == ["accepted", "accepted"]
    best = summary["best"]
    assert best["test"]["n"] == 870 and best["test"]["value"] > best["baseline_test"]["value"]
    assert best["standing"]["score"] == pytest.approx(best["test"]["value"], abs=1e-5)
    assert best["standing"]["teams"] == 2000 and "median of 2,000 teams" in done.stdout
    assert "median of 2,000 teams" in (cli.run / "context.md").read_text()
    gold = {line.rpartition(",")[2] for line in (prepared / "spaceship-titanic/prepared/private/test.csv").open()}
    assert gold == {"True\n", "False\n", "Transported\n"}
    for step in json.loads((cli.run / "lock.json").read_text())["data"]:
        assert step in {"labelled.csv", "test.csv", "answers.csv", "competition.json", "about.md"}


@pytest.mark.slow
def test_a_scripted_model_improves_on_the_reference_through_the_gateway(cli, prepared):
    program = bundled_folder("tasks") / "spaceship_titanic" / "recipes" / "bands.py"
    server = Served("swapping:reply", {**os.environ, "SIA_TEST_PROGRAMS": str(program)})
    task = ["task=mlebench", "task.competition=spaceship-titanic", f"task.prepared={prepared}"]
    try:
        model = ["meta_agent=llm", "target_agent=script", *server.overrides]
        done = cli(*task, *model, "max_gen=2", env=KEY, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        calls = server.tally.calls
    finally:
        server.end()
    assert [g["status"] for g in cli.summary["generations"]] == ["accepted", "accepted"]
    assert cli.summary["usage"]["calls"] == calls == 3
    assert cli.summary["best"]["test"]["value"] > cli.summary["best"]["baseline_test"]["value"]


def test_it_is_refused_in_one_line_where_nothing_is_prepared(cli, tmp_path):
    done = cli("task=mlebench", "task.competition=spaceship-titanic", f"task.prepared={tmp_path}")
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert "spaceship-titanic" in line and "mlebench" in line
