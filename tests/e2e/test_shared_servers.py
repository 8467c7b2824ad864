"""Whole runs whose stages share vLLM servers, with a program in the place of vLLM that has our engine behind it.

With vLLM itself: tests/e2e/test_weights_vllm.py.
"""

import contextlib
import json
import signal

import psutil
import pytest

from tests.conftest import ROOT, Cli
from tests.scripts import parity
from tests.scripts.slurm import FEW_JOBS, OnCluster, essence, need_cluster, said, state, until

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytest.importorskip("trl", reason="the weights lever needs the extra `training`")
pytest.importorskip("aiohttp", reason="the models extra is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ADAPTER = "gen_2/adapter/adapter_model.safetensors"
# what a harness would do to get at the servers: it is shown in its log
PROBE = """
try:
    print("addresses", Path({file!r}).read_text())
except OSError as error:
    print("addresses", type(error).__name__)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from tests.policy.checkpoints import checkpoint

    return checkpoint(tmp_path_factory.mktemp("base") / "base")


def experiment(cli, base):
    """Overrides of a run of two generations, harness and weights, whose servers are those of the run."""
    from tests.policy.vllm_server import COMMAND

    task = parity.overrides(cli.folder, max_tokens=8)
    file = cli.run / "servers" / "addresses.json"
    for program in cli.folder.glob("parity/*/**/target_agent.py"):
        program.write_text(program.read_text() + PROBE.format(file=str(file)))
    policy = [f"base={base}", "device=cpu", f"vllm.command={json.dumps(COMMAND)}", "vllm.startup=240"]
    checkpoints = ["trainer.checkpoint_every=1", "trainer.steps=4"]
    return [
        *task,
        "policy=vllm",
        *(f"target_agent.policy.{key}" for key in policy),
        *checkpoints,
        f"hydra.run.dir={cli.run}",
    ]


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SIA_TEST_RUN", str(tmp_path))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("undisturbed")
    cli = Cli(folder)
    environment = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "SIA_TEST_RUN": str(folder)}
    done = cli(*experiment(cli, base), timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not servers(folder) and "the server applies the adapter" in training_log(cli)
    assert [entry["line"] for entry in cli.journal if entry["event"] == "server"] == []
    return cli


def servers(folder):
    """The servers of the runs of one test, with their guards."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "tests.policy.vllm_server" in process.cmdline() and process.environ()["SIA_TEST_RUN"] == str(folder):
                found.append(process)
    return found


def kill_server(folder):
    (server,) = [process for process in servers(folder) if "-I" not in process.cmdline()]
    server.kill()


def training_log(cli):
    log = cli.run / "gen_2" / "training.log"
    return log.read_text() if log.is_file() else ""


def assert_same(cli, undisturbed):
    assert essence(cli) == essence(undisturbed)
    assert (cli.run / ADAPTER).read_bytes() == (undisturbed.run / ADAPTER).read_bytes()
    logs = [path.read_text() for path in cli.run.rglob("stdout.log")]
    assert logs and all("addresses PermissionError" in log or "addresses FileNotFoundError" in log for log in logs)
    kept = [path for path in cli.run.rglob("*.json*") if b'"key": "' in path.read_bytes()]
    assert [json.loads(path.read_text())["key"] for path in kept] == [""], "of servers that have ended"


def test_workers_and_jobs_ask_the_runs_servers_whatever_is_killed(cli, base, undisturbed, tmp_path):
    run = OnCluster(cli).start(*experiment(cli, base), "compute=local", "compute.pool=1")
    until(lambda: "step 1/4" in training_log(cli), 300)
    assert len(servers(tmp_path)) == 2, "one, and its guard"
    kill_server(tmp_path)
    until(lambda: "step 2/4" in training_log(cli), 120)
    run.kill()
    until(lambda: not servers(tmp_path), 20)
    run.resume()
    assert run.ended(600) == 0, run.said
    lines = [entry["line"] for entry in run.events("server")]
    assert "ended (exit code 137)" in lines[0] and "answers again" in lines[1]
    assert not servers(tmp_path)
    assert_same(cli, undisturbed)


def test_an_interrupt_ends_the_servers(cli, base, tmp_path):
    run = OnCluster(cli).start(*experiment(cli, base), "compute=local")
    until(lambda: len(servers(tmp_path)) == 2, 120)
    run.driver.send_signal(signal.SIGINT)
    assert run.ended(60) == 130, run.said
    assert not servers(tmp_path)


LITTLE = ["+compute.resources.servers.cpus=1", "+compute.resources.servers.memory_gb=2"]
LITTLE += ["compute.resources.default.memory_gb=2", "compute.resources.default.partition=gpu"]
LITTLE += ["+compute.resources.train.cpus=1", "compute.resources.train.memory_gb=3", "compute.resources.train.gpus=0"]


def server_jobs(run):
    """The jobs of the servers of a run, in the order of their submission."""
    begun = (run.cli.run / "journal.jsonl").exists()
    return [entry["job"] for entry in run.events("server") if "job" in entry] if begun else []


@pytest.fixture
def on_cluster(cli):
    need_cluster()
    run = OnCluster(cli)
    yield run
    run.close()
    for job in server_jobs(run):
        said("scancel", job)


def waits_or_runs(job):
    return state(job) in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING")


@pytest.mark.slurm
@pytest.mark.alone
def test_servers_that_are_a_job_come_up_again_whatever_befalls_them(on_cluster, base, undisturbed, tmp_path):
    run, cli = on_cluster, on_cluster.cli
    run.start(*experiment(cli, base), *FEW_JOBS, *LITTLE)
    until(lambda: "step 1/4" in training_log(cli), 400)
    (first,) = server_jobs(run)
    assert said("squeue", "--noheader", "--format=%j", f"--jobs={first}").startswith("sia:servers")
    said("scancel", first)
    until(lambda: "step 2/4" in training_log(cli), 300)
    first, second = server_jobs(run)
    said("scontrol", "requeue", second)
    until(lambda: "step 3/4" in training_log(cli), 300)
    assert server_jobs(run) == [first, second], "the same job, on its second start"
    run.kill()
    until(lambda: not waits_or_runs(second), 150)
    assert not servers(tmp_path)
    run.resume()
    assert run.ended(600) == 0, run.said
    until(lambda: not any(map(waits_or_runs, server_jobs(run))), 60)
    assert len(server_jobs(run)) == 3 and not servers(tmp_path)
    run.assert_counted_once()
    assert_same(cli, undisturbed)


@pytest.mark.slurm
def test_an_interrupt_cancels_the_job_of_the_servers(on_cluster, base, tmp_path):
    run = on_cluster.start(*experiment(on_cluster.cli, base), *FEW_JOBS, *LITTLE)
    until(lambda: server_jobs(run) and state(server_jobs(run)[0]) == "RUNNING", 200)
    run.driver.send_signal(signal.SIGINT)
    assert run.ended(60) == 130, run.said
    until(lambda: not waits_or_runs(server_jobs(run)[0]) and not servers(tmp_path), 60)
