"""Tests of the data that the pages get from run directories, whatever those contain."""

import asyncio
import json
import time

import pytest
from starlette.testclient import TestClient

from sia_runner.results.web.app import change_events as news_of
from sia_runner.results.web.app import dashboard
from sia_runner.results.web.open_runs import OpenRuns
from tests.results import writing
from tests.results.writing import generation, journal, start, summary

HOSTILE = "<script>document.title='taken'</script>\x1b[31m\u202e"


@pytest.fixture
def runs(tmp_path):
    for number in range(3):
        summary(tmp_path / f"run-{number}", status=["completed", "failed", "budget"][number])
    item = tmp_path / "run-0"
    journal(item, *generation(1, title=HOSTILE), *generation(2, "rejected", rationale=HOSTILE), start(3, "propose"))
    for n, text in ((1, "a\nb\n"), (2, f"a\n{HOSTILE}\n")):
        (item / f"gen_{n}" / "harness").mkdir(parents=True)
        (item / f"gen_{n}" / "harness" / "target_agent.py").write_text(text)
        (item / f"gen_{n}" / "stdout.log").write_text(f"{HOSTILE}\n")
    writing.scores(item, 1, {"q1": "correct", "q2": "wrong"})
    writing.call(item, 1, "id-q2", HOSTILE)
    return tmp_path


@pytest.fixture
def get(runs):
    client = TestClient(dashboard(runs, "localhost", "", (), ""), base_url="http://localhost")

    def asking(what, **parameters):
        return client.get(f"/api/{what}", params=parameters)

    return asking


def test_runs_are_searched_and_filtered(get):
    assert get("runs").json()["found"] == 3
    result = get("runs", status="failed").json()
    assert [row["path"] for row in result["rows"]] == ["run-1"]
    assert result["choices"]["status"] == {"budget": 1, "completed": 1, "failed": 1}
    assert get("runs", q="RUN-2 smoke").json()["found"] == 1
    assert get("runs", q="nothing like it").json()["found"] == 0
    assert len(get("runs", start=1, most=1).json()["rows"]) == 1


def test_runs_are_ordered_by_what_they_reached(get, runs):
    def order(by):
        return [row["path"][-1] for row in get("runs", order=by).json()["rows"]]

    for higher, wanted in ((False, ["0", "1", "2"]), (True, ["1", "0", "2"])):  # without a score: at the end
        for number, value in ((0, 0.2), (1, 0.9), (2, None)):
            val = None if value is None else {"value": value, "ci95": [value, value], "n": 10}
            best = {"generation": 1, "val": val, "test": None, "baseline_test": None}
            metric = {"name": "error", "higher_is_better": higher}
            usage = {"usd": number, "tokens": 1, "calls": 1}
            summary(runs / f"run-{number}", best=best, metric=metric, usage=usage)
        time.sleep(1.1)  # the list is looked at once a second
        assert order("val") == wanted
    assert order("cost") == ["2", "1", "0"]
    assert order("name") == ["0", "1", "2"]
    assert order("nothing like it") == order("")


def test_a_run_says_what_its_journal_says(get):
    run = get("run", path="run-0").json()
    assert [item["status"] for item in run["generations"]] == ["accepted", "rejected", "cut"]
    assert (run["best"], run["seed"], run["metric"]) == (1, 3, "accuracy")


@pytest.mark.parametrize("path", ["", "..", "run-0/gen_1", "/etc", "../other", "run-0/", "nothing"])
def test_only_runs_of_the_index_are_opened(get, path):
    for what in ("run", "run/logs", "run/curves"):
        assert get(what, path=path).status_code == 404


@pytest.mark.parametrize("place", ["gen_1/../..", "../gen_1", "gen_x", "work", "test/../gen_1", "gen_1\n"])
def test_only_places_of_runs_are_looked_into(get, place):
    assert get("run/questions", path="run-0", place=place).status_code == 422


def test_a_difference_and_what_was_said_about_it(get):
    (file,) = get("run/diff", path="run-0", old=1, new=2).json()["files"]
    assert (file["path"], file["added"], file["removed"]) == ("target_agent.py", 1, 1)
    assert "+<script>document.title='taken'</script>[31m" in file["lines"]
    assert get("run/generation", path="run-0", n=2).json()["rationale"].startswith("<script>")
    assert get("run/generation", path="run-0", n=9).status_code == 404


def test_texts_have_no_control_characters_anywhere(get):
    asked = {
        "runs": {},
        "run": {},
        "run/diff": {"new": 2, "old": 1},
        "run/generation": {"n": 2},
        "run/log": {"log": "gen_1/stdout.log"},
        "run/call": {"place": "gen_1", "at": 0},
    }
    for what, parameters in asked.items():
        answer = get(what, path="run-0", **parameters)
        assert answer.status_code == 200
        assert "script" in answer.text or what == "runs"
        assert "\\u001b" not in answer.text, what
        assert "\\u202e" not in answer.text, what


def test_questions_calls_and_the_text_of_a_call(get):
    answer = get("run/questions", path="run-0", place="gen_1", kind="wrong").json()
    assert answer["kinds"] == {"correct": 1, "wrong": 1}
    (row,) = answer["rows"]
    assert (row["unit"], row["calls"], answer["read"]["whole"]) == ("q2", 1, True)
    (call,) = get("run/calls", path="run-0", place="gen_1", number=row["number"]).json()["calls"]
    whole = get("run/call", path="run-0", place="gen_1", at=call["at"]).json()
    assert [message["role"] for message in whole["messages"]] == ["user", "answer"]
    assert whole["messages"][0]["text"].startswith("ask <script>")
    assert get("run/call", path="run-0", place="gen_1", at=7).status_code == 404


def test_what_the_provider_did_to_a_request_stands_before_its_text(get, runs):
    writing.call(runs / "run-0", 1, "id-q2", number=7, notice="seems to cut prompts")
    shown = get("run/call", path="run-0", place="gen_1", at=1).json()["messages"]
    assert [message["role"] for message in shown] == ["what the provider did to the request", "user", "answer"]
    assert shown[0]["text"] == "seems to cut prompts"


def test_logs_follow(get, runs):
    (log, _) = get("run/logs", path="run-0").json()["logs"]
    first = get("run/log", path="run-0", log=log["path"]).json()
    (runs / "run-0" / log["path"]).open("a").write("more\n")
    assert get("run/log", path="run-0", log=log["path"], since=first["end"]).json()["text"] == "more\n"
    assert get("run/log", path="run-0", log="config.yaml").status_code == 404


def test_damaged_files_are_answers_too(get, runs):
    item = runs / "run-0"
    (item / "summary.json").write_text(
        '{"metric": {"name": "\\ud800"}, "usage": {"usd": NaN}, "best": {"val": {"value": NaN, "ci95": null, "n": 1}}}'
    )
    (item / "config.yaml").write_text("task: {name: [1], metric: .nan}\nmax_gen: .nan\nbudget: {usd: .inf, calls: x}\n")
    (item / "gen_1" / "trajectories.jsonl").open("a").write(
        '{"usage": 3, "seconds": NaN, "error": "x", "question": "id-q2","request":"\\ud800","response":[1e999]}\n'
    )
    assert get("runs").status_code == 200
    assert get("run", path="run-0").status_code == 200
    assert len(get("run/calls", path="run-0", place="gen_1", number=1).json()["calls"]) == 2
    assert get("run/call", path="run-0", place="gen_1", at=1).status_code == 200


def test_folders_with_names_that_cannot_be_printed_are_no_runs(get, runs):
    import os

    os.mkdir(os.fsencode(runs) + b"/\xff")
    summary(runs / "bell\a")
    (runs / os.fsdecode(b"\xff") / "config.yaml").write_text("seed: 1")
    assert get("runs").json()["found"] == 3


def test_news_come_when_something_changed_and_only_then(runs, monkeypatch):
    monkeypatch.setattr("sia_runner.results.web.app.REFRESH_SECONDS", 0.01)
    monkeypatch.setattr("sia_runner.results.web.open_runs.REFRESH_SECONDS", 0.0)
    watching = OpenRuns(runs)

    async def follow():
        news = news_of(watching, "run-0")
        first = await anext(news)
        asyncio.get_running_loop().call_later(0.2, lambda: journal(runs / "run-0", *generation(3)))
        lines = [first]
        while "changed" not in lines[-1] or len(lines) == 1:
            lines.append(await anext(news))
        return lines

    lines = asyncio.run(asyncio.wait_for(follow(), 20))
    changed = [line for line in lines if "changed" in line]
    assert len(changed) == 2
    assert len(set(changed)) == 2


def test_a_run_is_read_once_however_many_look(runs):
    watching = OpenRuns(runs)
    for _ in range(5):
        with watching.open("run-0") as watched:
            assert watched.revision == 1
    assert json.dumps([row.path for row in watching.rows()])


def test_a_persons_notes_are_shown_with_the_run_and_in_the_list(get, runs):
    folder = runs / "run-1"
    journal(folder, *generation(1), ("directed", {"note": "a", "n": 2, "text": f"look {HOSTILE}", "by": "ann"}))
    summary(folder, directions=[{"n": 2, "text": "look", "by": "ann", "at": ""}])
    (note,) = get("run", path="run-1").json()["directions"]
    assert (note["n"], note["by"]) == (2, "ann") and "\x1b" not in note["text"]
    assert [row["directed"] for row in get("runs", order="name").json()["rows"]] == [0, 1, 0]
