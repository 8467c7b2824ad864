"""A sia-agent task folder runs unchanged: task=custom task.dir=PATH."""

import json
import os

import pytest

from tests.provider import Answer, ProviderServer, Status
from tests.scripts.serving import KEY, use

AGENT = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir"), parser.add_argument("--working_dir")
args = parser.parse_args()
{extra}
lines = pathlib.Path(args.dataset_dir, "test.csv").read_text().split()[1:]
rows = [line.split(",") for line in lines]
out = "".join(f"{{i}},{{{answer}}}\\n" for i, text in rows)
pathlib.Path(args.working_dir, "submission.csv").write_text("id,label\\n" + out)
"""

EVALUATE = """
import argparse, csv, json
from pathlib import Path
TRUTH = Path(__file__).parent.parent.parent / "data/private/test.csv"
parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir", type=Path)
folder = parser.parse_args().gen_dir
truth = {row["id"]: row["label"] for row in csv.DictReader(TRUTH.open())}
said = {row["id"]: row["label"] for row in csv.DictReader((folder / "submission.csv").open())}
right = sum(said.get(i) == label for i, label in truth.items())
print("the answers are", truth)
(folder / "results.json").write_text(json.dumps({"accuracy": right / len(truth), "detail": {"right": right}}))
"""


def agent(answer, extra=""):
    return AGENT.format(answer=answer, extra=extra)


@pytest.fixture
def folder(tmp_path):
    """Twenty numbers, even or odd; laid out as the sia-agent package lays out its tasks."""
    task = tmp_path / "parity"
    for part in ("data/public", "data/private", "reference"):
        (task / part).mkdir(parents=True)
    rows = [(f"q{n}", n, "even" if n % 2 == 0 else "odd") for n in range(20)]
    (task / "data/public/task.md").write_text("Even or odd?\n")
    (task / "data/public/test.csv").write_text("id,text\n" + "".join(f"{i},{n}\n" for i, n, _ in rows))
    (task / "data/private/test.csv").write_text("id,label\n" + "".join(f"{i},{label}\n" for i, _, label in rows))
    (task / "data/public/evaluate.py").write_text(EVALUATE)
    (task / "reference/reference_target_agent.py").write_text(agent("'even'"))
    return task


def test_its_reference_agent_is_scored_by_its_own_evaluator_and_the_summary_says_selected_on_test(cli, folder):
    done = cli("task=custom", f"task.dir={folder}", "max_gen=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cli.summary["selected_on_test"] is True and cli.summary["best"]["test"] is None
    assert cli.summary["best"]["val"]["value"] == 0.5
    assert len(cli.summary["generations"]) == 1 and "recipes" in cli.summary["stopped"]
    assert "selected_on_test" in done.stdout and "selected_on_test" in (cli.run / "context.md").read_text()


def test_better_harnesses_are_accepted_and_forged_or_stolen_results_are_not(cli, folder):
    forge = agent("'even'", "pathlib.Path(args.working_dir, 'results.json').write_text('{\"accuracy\": 1.0}')")
    places = ["../private/test.csv", str(folder / "data/private/test.csv")]
    steal = (
        "import shutil\n"
        f"for path in [args.dataset_dir + '/../private/test.csv', *{places!r}]:\n"
        "    try:\n"
        "        shutil.copy(path, args.working_dir + '/submission.csv')\n"
        "        raise SystemExit(0)\n"
        "    except OSError as error:\n"
        "        print(error)"
    )
    good = agent("'even' if int(text) % 2 == 0 else 'odd'")
    done = cli("task=custom", f"task.dir={folder}", *cli.replay(forge, agent("'even'", steal), good))
    assert done.returncode == 0, done.stdout + done.stderr
    values = [g["val"]["value"] for g in cli.summary["generations"]]
    assert values == [0.5, 0.5, 1.0]
    assert cli.summary["best"]["generation"] == 3


def test_nothing_that_the_evaluator_prints_reaches_the_evidence(cli, folder):
    good = agent("'even' if int(text) % 2 == 0 else 'odd'")
    cli("task=custom", f"task.dir={folder}", *cli.replay(agent("'even'"), good))
    for path in (cli.run / "gen_2" / "evidence").rglob("*"):
        assert not path.is_file() or "the answers are" not in path.read_text()


def test_a_folder_without_an_evaluator_is_refused_in_one_line(cli, folder):
    (folder / "data/public/evaluate.py").unlink()
    done = cli("task=custom", f"task.dir={folder}")
    assert done.returncode == 2 and "no evaluate.py" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not os.path.exists(cli.run)


def test_an_evaluator_without_the_metric_makes_the_candidate_unscored_and_names_what_there_is(cli, folder):
    done = cli("task=custom", f"task.dir={folder}", "task.metric.name=f1", "max_gen=1")
    assert done.returncode == 3, done.stdout + done.stderr
    (generation,) = cli.summary["generations"]
    assert generation["status"] == "unscored" and "accuracy, detail.right" in generation["reason"]


def test_such_a_run_can_be_verified(cli, folder):
    import subprocess
    import sys

    cli("task=custom", f"task.dir={folder}", "max_gen=1")
    done = subprocess.run([sys.executable, "-m", "sia_runner", "verify", str(cli.run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((cli.run / "lock.json").read_text())["data"]


ASKING = """
import csv, json, os, sys, urllib.error, urllib.request
lines = open(sys.argv[sys.argv.index("--dataset_dir") + 1] + "/test.csv").read().split()[1:]
out = open(sys.argv[sys.argv.index("--working_dir") + 1] + "/submission.csv", "w")
out.write("id,label\\n")
for name, text in (line.split(",") for line in lines):
    body = {"model": "any", "max_tokens": 9, "user": name, "messages": [{"role": "user", "content": "PROMPT " + text}]}
    headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
    address = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    try:
        got = urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers))
        label = json.load(got)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError:
        label = "none"
    out.write(f"{name},{label}\\n")
"""


def test_a_task_folder_has_no_score_where_half_of_the_calls_were_refused_for_good(cli, folder):
    def script(request):
        limited = request.last.startswith("second") and int(request.last.split()[1]) % 2
        return Status(429, message="slow down") if limited else Answer("even")

    with ProviderServer(script) as server:
        overrides = [*use(server.base_url), "provider.attempts=2"]
        overrides += cli.replay(ASKING.replace("PROMPT", "first"), ASKING.replace("PROMPT", "second"))
        done = cli("task=custom", f"task.dir={folder}", *overrides, env=KEY)
    first, second = cli.summary["generations"]
    assert (first["status"], first["val"]["value"]) == ("accepted", 0.5), done.stdout + done.stderr
    assert second["status"] == "unscored" and "slow down" in second["reason"]
