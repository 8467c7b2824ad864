"""The servers of a run as its own process follows them; jobs by a cluster of the test's own.

With programs in the place of vLLM: tests/policy/test_shared_servers.py; with a real cluster: tests/e2e.
"""

import json
from types import SimpleNamespace

import pytest

from sia_runner.compute.jobs import Cluster, JobCompute, JobState
from sia_runner.compute.protocol import JobStopped
from sia_runner.config.experiment import check_experiment
from sia_runner.config.training import PolicyConfig
from sia_runner.experiment import servers, stages
from sia_runner.experiment.loop import ExperimentLoop
from sia_runner.experiment.servers import ServersInJob
from sia_runner.policy.shared_servers import ENDED, Addresses, read_addresses, read_ticket, write_addresses
from sia_runner.records import Stage
from sia_runner.stage_results import GateResult
from sia_runner.store.journal import Journal
from sia_runner.store.run_directory import RunDir
from sia_runner.wire.grants import ProviderDown
from tests.config.test_experiment import composed
from tests.policy.test_vllm_servers import wait_until


class ClusterOfTest(Cluster):
    """Jobs whose states the test sets."""

    def __init__(self):
        self.states, self.tasks, self.cancelled = {}, {}, []

    def submit(self, step, task):
        job = str(len(self.states) + 1)
        self.states[job], self.tasks[job] = JobState("PENDING", "Resources"), task
        return job

    def state(self, job):
        return self.states.get(job, JobState("LOST"))

    def cancel(self, job):
        self.cancelled.append(job)

    def log(self, step, job):
        raise AssertionError

    def waiting(self, state, seconds):
        return "waits in the queue" if state and state.name == "PENDING" else ""


class Owner:
    """The process of a run with its cluster; `come_up` stands for what the job does."""

    def __init__(self, folder, cluster=None, restarts=1):
        self.cluster, self.events = cluster or ClusterOfTest(), []
        spec = PolicyConfig(base="a/base", backend="vllm", vllm={"restarts": restarts})
        record = lambda event, **fields: self.events.append((event, fields))  # noqa: E731
        self.folder = folder / "servers"
        self.servers = ServersInJob(folder, self.folder, record, JobCompute(1, self.cluster), spec, 8)
        self.servers.start()

    @property
    def job(self):
        return read_ticket(self.folder)[1]

    def submitted(self, count):
        wait_until(lambda: len(self.cluster.states) == count and self.job == str(count))
        return self.job

    def come_up(self, job, *lines):
        self.cluster.states[job] = JobState("RUNNING")
        write_addresses(self.folder, Addresses(f"keeper {job}", "key", {f"start {job}": "http://node:1/v1"}, "", lines))

    def lines(self):
        assert {event for event, _ in self.events} <= {"server"}
        return [fields["line"] for _, fields in self.events]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(servers, "_FOLLOW", 0.02)
    monkeypatch.setattr(servers, "_RETURN", 0.1)


@pytest.fixture
def owner(tmp_path):
    made = []

    def make(**settings):
        made.append(Owner(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.servers.close()


def test_a_stage_waits_until_the_job_is_up_and_the_job_is_cancelled_at_the_end(owner):
    run, news = owner(), []
    job = run.submitted(1)
    run.servers._thread.join(0.1)
    assert run.cluster.tasks[job].ticket == read_ticket(run.folder)[0]

    def say(line):
        news.append(line)
        run.come_up(job, "vLLM server 1 answers again after 3 s")

    run.servers.wait(say)
    assert news == ["the vLLM servers: job 1 waits in the queue"]
    wait_until(lambda: len(run.events) == 2)
    assert run.events[0][1]["job"] == job and run.lines()[1] == "vLLM server 1 answers again after 3 s"
    assert "key" not in json.dumps(run.events)
    run.servers.close()
    assert run.cluster.cancelled == [job] and read_addresses(run.folder) == Addresses(failure=ENDED)
    assert read_ticket(run.folder) == ("", ""), "a job that was not known yet ends by itself"


@pytest.mark.parametrize("end", ["PREEMPTED", "NODE_FAIL", "TIMEOUT", "LOST", "COMPLETED"])
def test_a_job_that_ends_through_no_fault_of_its_own_is_submitted_again_however_often(owner, end):
    run = owner(restarts=0)
    for count in (1, 2, 3):
        job = run.submitted(count)
        run.come_up(job)
        before = run.servers.present()
        run.cluster.states[job] = JobState(end)
        run.submitted(count + 1)
        assert run.servers.present() != before, "nobody asks servers that are gone"
    assert len({task.ticket for task in run.cluster.tasks.values()}) == 4
    assert [line for line in run.lines() if f"ended as {end}; another one" in line]


def test_a_job_that_is_requeued_keeps_its_number_and_its_old_addresses_are_taken_out(owner):
    run = owner()
    job = run.submitted(1)
    run.come_up(job)
    run.servers.wait(print)
    run.cluster.states[job] = JobState("PENDING", "BeginTime")
    wait_until(lambda: not run.servers.present())
    run.come_up(job)
    run.servers.wait(print)
    assert run.job == job and len(run.cluster.states) == 1


def test_a_job_that_fails_too_often_ends_the_run_in_one_line(owner):
    run = owner(restarts=1)
    for count in (1, 2):
        run.cluster.states[run.submitted(count)] = JobState("CANCELLED")
    with pytest.raises(ProviderDown, match="job 2 ended as CANCELLED: .*; it was started 2 times") as failed:
        run.servers.wait(print)
    assert "\n" not in str(failed.value)


def test_what_the_servers_say_of_their_end_is_not_tried_again(owner):
    run = owner(restarts=5)
    job = run.submitted(1)
    write_addresses(run.folder, Addresses("keeper", "key", {}, "vLLM server 1 ended (exit code 1): no memory"))
    run.cluster.states[job] = JobState("FAILED")
    with pytest.raises(ProviderDown, match="no memory"):
        run.servers.wait(print)
    wait_until(lambda: "vLLM server 1 ended (exit code 1): no memory" in run.lines())
    assert len(run.cluster.states) == 1


def test_a_job_that_sbatch_refuses_ends_the_run_in_one_line(owner):
    class Refusing(ClusterOfTest):
        def submit(self, step, task):
            raise JobStopped(f"{step.key}: sbatch refused the job: no such partition")

    with pytest.raises(ProviderDown, match="servers: sbatch refused the job: no such partition"):
        owner(cluster=Refusing()).servers.wait(print)


def test_the_next_process_of_a_run_takes_over_a_job_that_still_runs(owner):
    run = owner()
    job = run.submitted(1)
    run.come_up(job)
    run.servers._closed.set()  # killed
    second = owner(cluster=run.cluster)
    second.servers.wait(print)
    assert len(run.cluster.states) == 1 and second.servers._job == job
    second.servers.close()
    assert run.cluster.cancelled == [job]


class Stages:
    """A loop whose stages end as the test says, while servers answer or end."""

    def __init__(self, folder, *ends):
        policy = ["policy=vllm", "target_agent.policy.base=a/base", "target_agent=policy"]
        config = check_experiment(composed("task=smoke", "compute=local", *policy))
        self.ends, self.waits, self.steps, self.starts = list(ends), 0, [], 0
        asked = SimpleNamespace(wait=self.wait, present=lambda: frozenset({self.starts}))
        run = RunDir(folder)
        context = SimpleNamespace(
            config=config,
            run=run,
            servers=asked,
            compute=SimpleNamespace(call=self.call, apart=True),
            close_gateway=lambda: None,
        )
        self.journal, self.said = Journal(run.journal), []
        display = SimpleNamespace(say=self.said.append, show_stage=lambda *_: None)
        lease = SimpleNamespace(check=lambda: None)
        self.loop = ExperimentLoop(context, self.journal, lease, display)  # pyright: ignore[reportArgumentType]

    def wait(self, say):
        self.waits += 1

    def call(self, step, stage, *arguments):
        """An end is (whether servers ended meanwhile, what is raised)."""
        self.steps.append(step)
        ended, error = self.ends.pop(0)
        self.starts += ended
        if error:
            raise error
        return GateResult("")

    def gate(self):
        return self.loop._stage(GateResult, 1, Stage.GATE, stages.gate)


LIMIT = JobStopped("gen_1/gate: job 7 reached its time limit")


def test_a_stage_that_lost_its_time_to_servers_that_ended_is_repeated_once_they_answer(tmp_path):
    loop = Stages(tmp_path, (True, LIMIT), (True, ProviderDown("no vLLM server")), (False, None))
    assert loop.gate() == GateResult("")
    assert len(loop.steps) == 3 and loop.waits == 4 and [step.submitted for step in loop.steps[1:]] == [None, None]
    assert "reached its time limit" in loop.said[0] and "no vLLM server" in loop.said[1]
    events = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "done"], "it counts once"
    assert loop.gate() == GateResult("") and loop.waits == 4, "a finished stage needs no servers"


@pytest.mark.parametrize(("ended", "calls"), [(False, 1), (True, 4)])
def test_a_stage_that_fails_while_servers_answer_or_too_often_is_not_repeated(tmp_path, ended, calls):
    loop = Stages(tmp_path, *[(ended, LIMIT)] * 9)
    with pytest.raises(JobStopped, match="time limit"):
        loop.gate()
    assert len(loop.steps) == calls
