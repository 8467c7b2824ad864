"""The W&B Report, saved for real to a local server that answers W&B's GraphQL."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

pytest.importorskip("wandb_workspaces", reason="W&B Reports need the extra `tracking`")

from tests.results.report.conftest import HOSTILE
from tests.results.report.graphql import serving
from tests.wandb_server import KEY


@pytest.fixture
def surroundings(tmp_path):
    """Set up a user who has no key and no files of W&B."""
    names = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "HOME")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return clean | {name: str(tmp_path / "home") for name in names} | {"NETRC": str(tmp_path / "no netrc")}


def texts(spec):
    return "\n".join(block.get("content", "") for block in json.loads(spec)["blocks"])


def test_the_report_is_saved_with_the_tables_of_the_page(report, smoke_sweep, surroundings):
    with serving() as server:
        done = report(
            smoke_sweep, "wandb=me/sia", env=surroundings | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        )
    assert done.returncode == 0, done.stderr
    (saved,) = server.saved
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == ("me", "sia", "SIA-H and SIA-W+H")
    assert report.file(".md") in texts(saved["spec"])
    assert "| refused |" in texts(saved["spec"])
    assert f"W&B Report: {server.url}/me/sia/reports/" in done.stdout


READ_BACK = """
import json, sys
from wandb_workspaces.reports.v2 import Report
report = Report.from_url(sys.argv[1])
print(json.dumps([report.title, [[type(block).__name__, getattr(block, "text", "")] for block in report.blocks]]))
"""


def test_wandbs_own_client_reads_it_back(report, smoke_sweep, surroundings):
    with serving() as server:
        keyed = surroundings | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        done = report(smoke_sweep, "wandb=me/sia", env=keyed)
        (address,) = re.findall(r"W&B Report: (\S+)", done.stdout)
        command = [sys.executable, "-c", READ_BACK, address]
        read = subprocess.run(command, env=keyed, capture_output=True, text=True, timeout=120, check=True)
    title, blocks = json.loads(read.stdout.splitlines()[-1])
    assert title == "SIA-H and SIA-W+H"
    assert ["MarkdownBlock", report.file(".md")] in blocks
    assert server.asked[-1] == "SpecificReport"


def test_nothing_private_is_sent(report, trapped, tmp_path, surroundings):
    """Not what a harness or a proposer wrote, no question, no answer, no path, no setting, nothing of this machine."""
    planted = shutil.copytree(trapped, tmp_path / "planted", symlinks=True)
    for name in ("improvement.md", "harness/target_agent.py", "stdout.log"):
        (planted / "gen_2" / name).write_text("PLANTED secret")
    (planted / "config.yaml").write_text((planted / "config.yaml").read_text() + "\n# PLANTED sk-secret\n")
    shown = [json.loads(line) for line in (trapped / "gen_3/evidence/failures.jsonl").read_text().splitlines()]
    questions = [row["question"]["text"] for row in shown]
    with serving() as server:
        keyed = surroundings | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "OPENAI_API_KEY": "PLANTED too"}
        assert report(planted, "wandb=me/sia", env=keyed).returncode == 0
    assert len(server.saved) == 1 and "smoke (no model)" in server.saved[0]["spec"]
    sent = "\n".join(server.received)
    assert not [word for word in ("PLANTED", "alert(", HOSTILE, KEY, str(tmp_path), str(planted)) if word in sent]
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", sent)
    assert questions and not [text for text in questions if text in sent]


def test_runs_that_were_tracked_are_charts(report, trapped, tmp_path, surroundings):
    copy = shutil.copytree(trapped, tmp_path / "tracked", symlinks=True)
    (copy / "tracking").mkdir()
    (copy / "tracking" / "wandb.json").write_text(json.dumps({"id": "0123abcd", "project": "sia", "entity": None}))
    with serving() as server:
        done = report(copy, "wandb=me/sia", env=surroundings | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY})
    assert done.returncode == 0, done.stderr
    (grid,) = (block for block in json.loads(server.saved[0]["spec"])["blocks"] if block["type"] == "panel-grid")
    assert "0123abcd" in json.dumps(grid["metadata"]["runSets"][0]["filters"])
    shown = json.dumps(grid["metadata"]["panelBankSectionConfig"])
    assert all(f'"{name}"' in shown for name in ("generation", "best_val", "train/reward"))


def test_a_project_that_is_not_there_is_made(report, trapped, surroundings):
    with serving(projects=()) as server:
        done = report(trapped, "wandb=me/new", env=surroundings | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY})
    assert done.returncode == 0, done.stderr
    assert server.projects == ["new"] and len(server.saved) == 1


@pytest.mark.parametrize("key", [None, KEY])
def test_without_a_key_or_an_answer_it_says_so_in_one_line_and_the_page_is_there(report, trapped, surroundings, key):
    with serving() as server:
        server.refuses = 401
        given = {"WANDB_BASE_URL": server.url} | ({"WANDB_API_KEY": key} if key else {})
        done = report(trapped, "wandb=me/sia", env=surroundings | given)
    assert done.returncode == 2 and server.saved == []
    (refusal,) = (line for line in done.stderr.splitlines() if line.startswith("refused:"))
    assert refusal.startswith("refused: wandb=me/sia: ") and "Traceback" not in done.stderr
    assert report.out.exists()
