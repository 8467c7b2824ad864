"""Exported logs: Inspect's own reader takes them, and its viewer shows them."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

from tests.commands.conftest import command
from tests.results import writing
from tests.results.test_conversations import HOSTILE, USER, record

inspect_log = pytest.importorskip("inspect_ai.log", reason="the extra `inspect` is not installed")


@pytest.fixture(scope="module")
def logs(tmp_path_factory, _own_cache):
    """The logs of a real run with 1,598 trajectories, and the run."""
    import tarfile

    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("logs")
    with tarfile.open(ROOT / "tests" / "fixtures" / "runs_d029a29" / "sia_wh.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    code, output = command("export", folder / "sia_wh", folder / "logs", "--inspect")
    assert code == 0, output
    return folder / "logs", folder / "sia_wh"


def test_inspect_reads_more_than_a_thousand_trajectories_and_the_scores_of_the_journal(logs):
    folder, run = logs
    read = {}
    for info in inspect_log.list_eval_logs(str(folder)):
        log = inspect_log.read_eval_log(info)
        read[log.eval.metadata["harness_run"]] = log
    assert sorted(read) == ["gen_1", "gen_2", "test/gen_1", "test/gen_2"]
    assert sum(len(log.samples) for log in read.values()) == 1598
    summary = json.loads((run / "summary.json").read_text())
    best = read[f"test/gen_{summary['best']['generation']}"]
    assert best.status == "success"
    assert best.results.scores[0].metrics["accuracy"].value == summary["best"]["test"]["value"]
    for row in summary["generations"]:
        (score,) = read[f"gen_{row['n']}"].results.scores
        assert score.metrics["accuracy"].value == row["val"]["value"] and score.scored_samples == row["val"]["n"]


def test_samples_are_those_of_the_verifier_with_the_calls_of_the_gateway(logs):
    folder, run = logs
    (path,) = (path for path in folder.iterdir() if "_arithmetic-gen-1_" in path.name)
    samples = {sample.id: sample for sample in inspect_log.read_eval_log(str(path)).samples}
    outcomes = json.loads((run / "gen_1" / "scores.json").read_text())["outcomes"]
    assert {sample: samples[sample].scores["verifier"].value for sample in samples} == {
        outcome["unit"]: outcome["value"] for outcome in outcomes
    }
    keys = json.loads((run / "gen_1" / "keys.json").read_text())
    for line in (run / "gen_1" / "trajectories.jsonl").read_text().splitlines()[:50]:
        call = json.loads(line)
        sample = samples[keys[call["question"]]]
        assert sample.messages[0].text == call["request"]["messages"][0]["content"]
        assert sample.output.completion == call["response"]["text"]
        assert sample.events[0].output.usage.input_tokens == call["usage"]["input"]
    by_split = {name: [s for s in samples.values() if s.metadata["split"] == name] for name in ("dev", "val")}
    assert len(by_split["dev"]) + len(by_split["val"]) == len(samples) and by_split["dev"]
    assert all(not sample.target for sample in by_split["val"])  # gold answers of val leave no run
    assert {bool(s.target) for s in by_split["dev"] if s.metadata["kind"] == "wrong"} == {True}


def test_whatever_a_harness_sent_is_read_back(tmp_path):
    from sia_runner.results.conversations import HarnessRunExport
    from sia_runner.results.inspect_logs import write_inspect_log

    run, out = tmp_path / "run", tmp_path / "out"
    writing.scores(run, 1, {"q1": "wrong", "q2": "rate_limited", "q3 \x1b[31m": "no_answer"})
    for request in HOSTILE:
        odd = {"text": "a\x00b", "tool_calls": [{"id": None, "name": 3, "arguments": "[1"}], "reasoning": "because"}
        record(run / "gen_1", request, odd, seconds=12.5)
    record(run / "gen_1", {"messages": [USER]}, {}, question="id-q2", error={"kind": "rate_limited", "message": "no"})
    record(run / "gen_1", {"messages": [USER]}, {"text": "2", "tool_calls": []}, question=None)
    export = HarnessRunExport(
        run, "gen_1", "smoke", "accuracy", None, "val", "first", failure="nothing\x1b[2J answered"
    )
    out.mkdir()
    path, count = write_inspect_log(export, out)
    log = inspect_log.read_eval_log(str(path))
    assert count == len(log.samples) == 4 and (log.status, log.error.message) == ("error", "nothing[2J answered")
    samples = {sample.id: sample for sample in log.samples}
    wrong, limited, untagged = samples["q1"], samples["q2"], samples["no question named"]
    unanswered = samples["q3 [31m (3)"]  # an id that was cleaned has its number, as two could look alike
    assert len(wrong.events) == len(HOSTILE) and wrong.scores["verifier"].value == 0.0
    assert limited.error.message == "rate_limited" and not limited.scores and limited.events[0].error
    assert unanswered.scores["verifier"].value == 0.0 and not unanswered.events
    assert untagged.scores is None and untagged.error is None and len(untagged.events) == 1
    text = log.model_dump_json()
    assert "\\u001b" not in text and "\\u0000" not in text


def test_equal_messages_of_a_conversation_stay_two(tmp_path):
    from sia_runner.results.conversations import HarnessRunExport
    from sia_runner.results.inspect_logs import write_inspect_log

    writing.scores(tmp_path / "run", 1, {"q1": "wrong"})
    answer = {"role": "assistant", "content": "2"}
    for count in range(3):
        request = {"messages": [USER, *[answer, USER] * count]}
        record(tmp_path / "run" / "gen_1", request, {"text": "2", "tool_calls": []})
    export = HarnessRunExport(tmp_path / "run", "gen_1", "smoke", "accuracy", None, "val", "first")
    path, _ = write_inspect_log(export, tmp_path)
    (sample,) = inspect_log.read_eval_log(str(path)).samples
    assert [message.text for message in sample.messages] == ["how many?", "2"] * 3
    assert len({message.id for message in sample.messages}) == 6 and sample.metadata["conversations"] == 1
    assert [len(event.input) for event in sample.events] == [1, 3, 5]


@contextmanager
def viewer(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    view = "import sys; from inspect_ai._cli.main import main; sys.argv[0] = 'inspect'; main()"
    options = ["view", "start", "--log-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen([sys.executable, "-c", view, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            time.sleep(0.2)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                break
            except OSError:
                assert server.poll() is None, server.stdout.read().decode()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=60)


def test_the_viewer_shows_runs_questions_and_conversations(browser, logs):
    folder, _ = logs
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(90_000)
    with viewer(folder) as address:
        page.goto(address)
        for name in ("arithmetic-gen-1", "arithmetic-gen-2", "arithmetic-test-gen-1", "arithmetic-test-gen-2"):
            page.get_by_text(name, exact=True).first.wait_for()
        page.get_by_text("arithmetic-gen-1", exact=True).first.click()
        page.get_by_text("399 Samples", exact=True).wait_for()
        page.get_by_text("309+3=", exact=True).first.wait_for()
        page.get_by_text("309+3=", exact=True).first.click()
        page.get_by_text("342", exact=True).first.wait_for()  # the answer
        page.get_by_text("312", exact=True).first.wait_for()  # the gold answer of a failure on dev
    page.close()
