"""docs/extending.md, exercise by exercise, and the count of files that each takes."""

import ast
import csv
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import psutil
import pytest

from tests.conftest import ROOT
from tests.extending.following import Workplace, add, page, section
from tests.provider import ProviderServer

PAGE = page("extending.md")
TEXTS = {
    name[0].lower() + name[1:]: text for name, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)
}
EXERCISES = {name: section(text) for name, text in TEXTS.items()}
TABLE = {
    name: (int(written), int(opened))
    for name, written, opened in re.findall(r"^\| \[(.*?)\]\(.*?\) \| (\d+) \| (\d+) \|", PAGE, re.M)
}


def opened(name):
    """The files that the first line of an exercise names."""
    line = re.match(r"\s*Open: (.*?)\.\n\n", TEXTS[name], re.S)[1]
    return {path or f"docs/{linked}" for path, linked in re.findall(r"`([\w/]+\.(?:py|yaml))`|\[(\w+\.md)\]", line)}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    with ProviderServer(add, models=("house-7b",)) as server:
        folder, keys = tmp_path_factory.mktemp("mine"), {"HOUSE_URL": server.base_url, "HOUSE_KEY": "test-key"}
        place = Workplace(folder, EXERCISES.values(), **keys)
        place.server = server
        yield place


@pytest.fixture
def worker(workplace):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "remote_worker.py", str(port)]
    process = subprocess.Popen(command, cwd=workplace.folder, env=workplace.env, stderr=subprocess.PIPE)
    workplace.env["SIA_WORKER"] = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{workplace.env['SIA_WORKER']}/gaps", timeout=10).close()
            break
        except OSError:
            time.sleep(0.1)
    yield process
    process.kill()
    process.communicate()


def test_the_table_of_the_page_counts_the_files_and_all_are_few():
    assert list(TABLE) == list(EXERCISES)
    for name, part in EXERCISES.items():
        assert TABLE[name] == (len(part.written), len(opened(name))), name
        assert len(part.written) <= 3 and len(opened(name)) <= 4, name
        assert all((ROOT / path).is_file() for path in opened(name)), name
        imported = {
            f"{node.module.replace('.', '/')}.py"
            for path, text in part.files.items()
            if path.endswith(".py")
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sia_runner")
        }
        assert imported <= opened(name), name  # whatever an example uses, its reader was told to open


def test_an_algorithm_trains_an_adapter(workplace):
    pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
    workplace.follow(EXERCISES["a training algorithm"])
    second = workplace.summary("ranks")["generations"][1]
    assert (second["lever"], second["algorithm"]) == ("weights", "my_algorithms.Ranks")
    origin = json.loads((workplace.folder / "runs" / "ranks" / "gen_2" / "adapter" / "sia_adapter.json").read_text())
    assert (origin["algorithm"], origin["steps"]) == ("my_algorithms.Ranks", 1)


def test_a_provider_answers_harnesses(workplace):
    workplace.follow(EXERCISES["a provider"])
    summary = workplace.summary("house")
    assert summary["best"]["test"]["value"] > 0.95 and summary["usage"]["usd"] > 0
    assert workplace.server.requests[-1].body["model"] == "house-7b"


def test_a_verifier_gives_partial_credit(workplace):
    workplace.follow(EXERCISES["a task with a verifier"])
    outcomes = workplace.summary("parcels")["generations"][0]["outcomes"]
    assert outcomes["partial"] > 0 and outcomes["wrong"] > 0
    assert workplace.sh("python -m sia_runner verify runs/parcels").returncode == 0


def test_an_accept_rule_decides(workplace):
    workplace.follow(EXERCISES["an accept rule"])
    first, second = workplace.summary("careful")["generations"]
    assert first["status"] == "accepted" and "lost (at most 15)" in second["reason"]
    command = EXERCISES["an accept rule"].commands[0].replace("runs/careful", "runs/strict search.accept.most_lost=-1")
    assert workplace.sh(command).returncode == 0
    assert workplace.summary("strict")["generations"][1]["status"] == "rejected"


def test_a_proposer_proposes(workplace):
    workplace.follow(EXERCISES["a proposer"])
    words = {generation["title"] for generation in workplace.summary("one_word")["generations"]}
    assert len(words) == 2 and words <= {"not", "love", "refund"}


def test_a_tracker_is_told(workplace):
    workplace.follow(EXERCISES["a tracker"])
    lines = (workplace.folder / "runs" / "lines" / "generations.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"] and lines[0] == "1 accepted"


def test_a_sandbox_runs_harnesses(workplace):
    workplace.follow(EXERCISES["a sandbox"])
    lock = json.loads((workplace.folder / "runs" / "bare" / "lock.json").read_text())
    assert lock["sandbox"]["name"] == "bare" and workplace.summary("bare")["best"]["test"]["value"] > 0.3


def test_a_remote_sandbox_takes_files_and_calls_models(workplace, worker):
    workplace.follow(EXERCISES["a sandbox on another machine"])
    summary = workplace.summary("remote")
    assert summary["best"]["test"]["value"] > 0.95 and summary["usage"]["calls"] > 600
    assert "loopback" not in str(summary) and worker.poll() is None


def test_a_remote_job_ends_when_the_runner_is_killed(workplace, worker):
    def jobs():
        """The worker's children that run a job: not the supervisor that stands by for its own sandbox check."""
        found = []
        for child in psutil.Process(worker.pid).children():
            with suppress(psutil.NoSuchProcess):
                found += [child] * ("--job" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE)
        return found

    endless = workplace.folder / "endless" / "gen_1"
    endless.mkdir(parents=True)
    (endless / "target_agent.py").write_text("while True: pass")
    command = [sys.executable, "-m", "sia_runner", "--config-dir", "conf", "sandbox=remote", "meta_agent=replay"]
    command += ["meta_agent.dir=endless", "hydra.run.dir=runs/killed"]
    runner = subprocess.Popen(command, cwd=workplace.folder, env=workplace.env, stdout=subprocess.DEVNULL)
    wait_until(jobs)
    runner.kill()
    runner.wait()
    wait_until(lambda: not jobs())


def wait_until(condition):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen within 30 s")


def test_a_remote_sandbox_without_a_worker_refuses_the_run(workplace):
    done = workplace.sh("python -m sia_runner --config-dir conf sandbox=remote sandbox.url=http://127.0.0.1:9")
    assert done.returncode == 2 and "no worker answers at sandbox.url=http://127.0.0.1:9" in done.stderr


def test_a_policy_answers_from_its_own_class(workplace):
    workplace.follow(EXERCISES["a policy"])
    assert workplace.summary("adder")["best"]["test"]["value"] > 0.95
    lock = json.loads((workplace.folder / "runs" / "adder" / "lock.json").read_text())
    assert lock["policy"] == {"base": "adder", "sha256": "0" * 64}


def test_a_column_is_in_the_page_and_the_table(workplace):
    workplace.follow(EXERCISES["a tracker"])
    workplace.follow(EXERCISES["a column of the report"])
    assert ">accepted</th>" in (workplace.folder / "report.html").read_text()
    with (workplace.folder / "report.runs.csv").open() as stream:
        rows = {row["run"]: row["accepted"] for row in csv.DictReader(stream)}
    assert 0 < float(rows["lines"]) <= 1
    for columns, message in (
        ("my_columns.nothing", "my_columns.nothing cannot be loaded: AttributeError"),
        ("my_columns.accepted,my_columns.accepted", "columns=my_columns.accepted: there is a column accepted already"),
    ):
        wrong = workplace.sh(f"python -m sia_runner report runs columns={columns}")
        assert wrong.returncode == 2 and wrong.stderr.startswith(f"refused: {message}")
