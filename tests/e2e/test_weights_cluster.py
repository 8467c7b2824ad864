"""Weights divided over two nodes of a real SLURM cluster, trained with a real vLLM server that the run starts.

It needs both: slurm/local/cluster.sh up, and the lines of tests/engines/vllm.sh env. Every way to lose a part of the
update ends with the tokens, scores and adapter of a run that lost nothing, and leaves no process behind. For that the
server answers one request at a time, and reads each prompt whole: what it computes together with other rows, or behind
a prefix that it has read before, is rounded differently, and then other tokens are sampled.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")

from tests.conftest import Cli
from tests.e2e.test_weights_vllm import BASE, PYTHON, assert_applied
from tests.scripts import parity
from tests.scripts.slurm import FEW_JOBS, OnCluster, bring_up, essence, need_cluster, said, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.alone,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PYTHON, reason="no interpreter with vLLM: tests/engines/vllm.sh env"),
]

STEPS, BUILD = 3, "gen_2/build"
ONE_BY_ONE = "--max-num-seqs 1 --no-enable-prefix-caching --max-model-len 256 --max-num-batched-tokens 256"
ON_CPU = f"{ONE_BY_ONE} --enforce-eager --no-enable-chunked-prefill"
COMMAND = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model"]
VLLM = ["policy=vllm", f"target_agent.policy.base={BASE}", "target_agent.policy.device=cpu"]
VLLM += [f"target_agent.policy.vllm.command={json.dumps(COMMAND)}"]
VLLM += [f"target_agent.policy.vllm.args={json.dumps(shlex.split(ON_CPU))}"]
# jobs: the update, and the servers that all stages share, on the node that does not train
CLUSTER = [*FEW_JOBS, "+compute.resources.run.run_in=driver", "compute.resources.train.nodes=2"]
CLUSTER += ["compute.resources.train.partition=cpu", "compute.resources.train.gpus=0"]
CLUSTER += ["+compute.resources.train.cpus=2", "compute.resources.train.memory_gb=5"]
CLUSTER += ["+compute.resources.servers.partition=gpu", "+compute.resources.servers.gpus=0"]
CLUSTER += ["+compute.resources.servers.cpus=2", "+compute.resources.servers.memory_gb=6"]
UPDATE = ["trainer.shards=2", "trainer.checkpoint_every=1", f"trainer.steps={STEPS}"]


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    need_cluster()


class Update(OnCluster):
    """A run of two generations; the second one trains the weights on both nodes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        super().__init__(Cli(folder))
        self.seen: set[psutil.Process] = set()

    def begin(self, *more: str) -> str:
        """Start the run; return the id of the update's job once it is at work on two nodes."""
        os.environ["SIA_TEST_RUN"] = str(self.cli.run)
        task = parity.overrides(self.cli.folder, max_tokens=8)
        self.start(*task, *VLLM, *CLUSTER, *UPDATE, *more, f"hydra.run.dir={self.cli.run}")
        job = self.running(BUILD, 600)
        assert said("squeue", "--noheader", "--format=%D %N", f"--jobs={job}") == "2 c[1-2]"
        return job

    @property
    def training_log(self) -> str:
        log = self.cli.run / "gen_2" / "training.log"
        return log.read_text() if log.is_file() else ""

    def saved(self, step: int) -> bool:
        """Return True once there is a checkpoint of a step, from which the update can go on."""
        return any((self.cli.run / "gen_2" / "training").glob(f"step-{step:06d}-*/checkpoint.json"))

    def samples(self) -> int:
        """Return the harnesses that ask for rollouts at this moment."""
        return len(list((self.cli.run / "gen_2" / "rollouts").glob("*")))

    def processes(self) -> list[psutil.Process]:
        """Return what runs on this machine, which is every node, and was started by the run."""
        found = set[psutil.Process]()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SIA_TEST_RUN") == str(self.cli.run) and process.pid != os.getpid():
                    found |= {process, *process.children(recursive=True)}
        self.seen |= found
        return [*found]

    def with_words(self, *words: str) -> list[psutil.Process]:
        """Return the processes of the update's job whose command has all these words, oldest first."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if {*words} <= {*process.cmdline()} and "SLURM_JOB_ID" in process.environ():
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def ranks(self) -> list[psutil.Process]:
        """Return the two processes that train, without those that started them."""
        return [process for process in self.with_words("sia_runner.experiment.weights.parallel") if is_rank(process)]

    def servers(self) -> list[psutil.Process]:
        """Return the update's server, without its guard."""
        return [process for process in self.with_words("--port", BASE) if "-I" not in process.cmdline()]

    @property
    def all_jobs(self) -> list[str]:
        """The ids of all jobs, that of the servers included."""
        return [entry["job"] for event in ("job", "server") for entry in self.events(event) if "job" in entry]

    def assert_nothing_is_left(self) -> None:
        """Neither of what was seen at any time, nor a job."""
        assert len(self.seen) > 10
        until(lambda: not [process for process in self.seen if process.is_running()], 20)
        assert not self.processes()
        mine = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(self.all_jobs)}"]
        until(lambda: not said(*mine, "--states=R,PD,CG"), 20)

    def close(self) -> None:
        super().close()
        if (self.cli.run / "journal.jsonl").exists():
            for job in self.all_jobs:
                subprocess.run(["scancel", job], check=False, capture_output=True)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


def is_rank(process: psutil.Process) -> bool:
    return "torch.distributed.run" not in process.cmdline() and "srun" not in process.cmdline()[0]


# ---- what may happen to an update, each in the middle of a step


def kill_server(run: Update) -> None:
    """In the middle of the first rollouts; they are asked for again at the server that is started instead."""
    until(lambda: run.samples() and run.servers(), 600, 0.02)
    (server,) = run.servers()
    server.kill()
    until(lambda: run.servers() and run.servers() != [server], 60)


def kill_rank(run: Update, step: int) -> None:
    """On the second node, after a step."""
    until(lambda: run.saved(step), 600, 0.02)
    assert len(run.ranks()) == 2
    os.kill(run.ranks()[-1].pid, signal.SIGKILL)
    until(lambda: "the processes are started again" in run.training_log, 120)


def lose_node(run: Update, step: int) -> None:
    """The second one, after a step; SLURM requeues the job."""
    until(lambda: run.saved(step), 600, 0.02)
    said("scontrol", "update", "nodename=c2", "state=down", "reason=test")
    try:
        until(lambda: not run.ranks(), 120)
    finally:
        bring_up()  # the node too


def result(run: Update) -> tuple:
    """Return all that a run ends with: scores, the tokens of all answers, the curve, and the adapter."""
    generation = run.cli.run / "gen_2"
    calls = [json.loads(line) for line in (generation / "trajectories.jsonl").read_text().splitlines()]
    tokens = sorted((call["tokens"]["prompt_ids"], call["tokens"]["completion_ids"]) for call in calls)
    lines = [json.loads(line) for line in (generation / "curve.jsonl").read_text().splitlines()]
    curve = {line["step"]: {**line, "seconds": 0.0} for line in lines}  # a step that was taken again has two lines
    adapter = (generation / "adapter" / "adapter_model.safetensors").read_bytes()
    return essence(run.cli), tokens, curve, adapter


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Make runs, of which nothing goes on after the test."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SIA_TEST_RUN", "")
    runs: list[Update] = []

    def make(name: str) -> Update:
        runs.append(Update(tmp_path / name))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


def test_a_killed_server_a_killed_rank_and_a_lost_node_change_nothing_and_leave_nothing(start):
    undisturbed, disturbed = start("undisturbed"), start("disturbed")
    undisturbed.begin()
    until(lambda: undisturbed.saved(1), 600)
    assert len(undisturbed.ranks()) == 2
    assert undisturbed.ended(600) == 0, undisturbed.said
    undisturbed.assert_nothing_is_left()
    second = undisturbed.cli.summary["generations"][1]
    assert undisturbed.cli.summary["mode"] == "SIA-W+H" and second["val"]["n"] == 8
    assert (second["lever"], second["algorithm"]) == ("weights", "grpo")
    assert_applied(undisturbed.cli.run / "gen_2")

    job = disturbed.begin()
    kill_server(disturbed)
    kill_rank(disturbed, 1)
    lose_node(disturbed, 2)
    assert disturbed.ended(900) == 0, disturbed.said
    assert disturbed.training_log.count("resumed after step") >= 2
    assert "Restarts=1" in said("scontrol", "show", "job", job)
    lines = [entry["line"] for entry in disturbed.events("server") if "job" not in entry]
    assert len(lines) == 2 and "ended" in lines[0] and "answers again" in lines[1]
    disturbed.assert_counted_once()
    disturbed.assert_nothing_is_left()
    assert result(disturbed) == result(undisturbed)
