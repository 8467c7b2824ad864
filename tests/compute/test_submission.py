"""What sbatch answers, as real controllers and the wrappers of sites print it, and what is made of it."""

import os

import pytest

from sia_runner.compute import slurm, submission
from sia_runner.compute.allocation import Allocation
from sia_runner.compute.jobs import ENDED, JobState, RepeatedNews, telling_line
from sia_runner.compute.protocol import ComputeError, JobStopped
from sia_runner.compute.slurm import Slurm
from sia_runner.compute.submission import SubmissionError, read_job_id, submit_jobs
from sia_runner.config.components import StageResources
from tests.compute.steps import step

pytest.importorskip("submitit", reason="jobs need sia-runner[slurm]")

# SLURM 22.05
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
FULL = f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: {POLICY}\n"
WALL = f"sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: {POLICY}\n"
UNNAMED = f"sbatch: error: Batch job submission failed: {POLICY}\n"
ARRAY = "sbatch: error: Batch job submission failed: Invalid job array specification\n"
NODES = "allocation failure: Requested node configuration is not available\n"
MEMORY = (
    "sbatch: error: This cluster assigns memory by cores: --mem is refused\n"
    "sbatch: error: Batch job submission failed: Unspecified error\n"
)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Make shims in front of SLURM's commands; the file `calls` has a line for each call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(**scripts):
        for name, script in {"squeue": "true", "scancel": "true", "srun": "true", "sinfo": "true", **scripts}.items():
            (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\n{script}\n')
            (folder / name).chmod(0o755)
        return tmp_path / "calls"

    return make


def says(text, stream=1, code=0):
    return f"cat >&{stream} <<'END'\n{text}\nEND\nexit {code}"


@pytest.mark.parametrize(
    ("output", "job"),
    [
        ("Submitted batch job 4711", "4711"),
        ("Welcome. Since job 99 the scratch is new.\nSubmitted batch job 4711\n", "4711"),
        ("Submitted batch job 99\nSubmitted batch job 4711\n", "4711"),
        ("Submitted batch job 4711 on cluster west\n", "4711"),
        ("4711\n", "4711"),
        ("news: maintenance on day 12\n4711;west\n", "4711"),
        ("12\n4711\n", None),
        ("your job 99 was submitted", None),
        ("", None),
    ],
)
def test_the_job_of_an_answer_is_on_a_line_of_its_own(output, job):
    assert read_job_id(output) == job


@pytest.mark.parametrize(
    ("output", "transient", "queue_full", "text"),
    [
        (FULL, True, True, "AssocMaxSubmitJobLimit; Job violates"),
        (WALL, False, False, "QOSMaxWallDurationPerJobLimit; Job violates"),
        (UNNAMED, True, True, "Job violates"),
        (ARRAY, False, False, "Invalid job array specification"),
        (MEMORY, False, False, "This cluster assigns memory by cores: --mem is refused; Unspecified error"),
        ("Welcome to the cluster\nsbatch: fatal: no such file", False, False, "no such file"),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            True,
            False,
            "Unable to contact",
        ),
        ("", False, False, "nothing"),
    ],
)
def test_every_line_that_says_why_is_kept_and_what_may_pass_is_told_apart(output, transient, queue_full, text):
    error = SubmissionError(output)
    assert (error.transient, error.queue_full) == (transient, queue_full)
    assert str(error).startswith(text) and "sbatch:" not in str(error)


def test_a_refusal_that_may_never_pass_says_so_after_a_minute():
    assert SubmissionError(UNNAMED).advice("compute.resources.run", 59) == ""
    assert "may never pass: lower compute.resources.run.minutes" in SubmissionError(UNNAMED).advice(
        "compute.resources.run", 61
    )
    assert SubmissionError(WALL).advice("compute.resources.run") == "; lower compute.resources.run.minutes"
    assert SubmissionError(FULL).advice("compute.resources.run", 3600) == ""


def submit(tmp_path, count=1):
    functions = [lambda: 0] * count
    return submit_jobs(tmp_path / "jobs", {"job_name": "sia:gen_1/run", "time": 5}, functions)


def test_a_job_and_an_array_leave_the_files_that_submitit_reads(tmp_path, commands):
    commands(sbatch=says("news of job 99\nSubmitted batch job 7"))
    assert submit(tmp_path) == ["7"]
    assert submit(tmp_path, 2) == ["7_0", "7_1"]
    names = {path.name for path in (tmp_path / "jobs").iterdir()}
    assert names == {"7_submission.sh", "7_submitted.pkl", "7_0_submitted.pkl", "7_1_submitted.pkl"}


def test_a_wrapper_that_prints_nothing_is_asked_about_by_the_unique_name_of_the_job(tmp_path, commands):
    calls = commands(sbatch="true", squeue="echo 4711")
    assert submit(tmp_path) == ["4711"]
    name = next(line for line in calls.read_text().splitlines() if line.startswith("squeue")).partition("--name=")[2]
    assert f"--job-name={name}" in (tmp_path / "jobs" / "4711_submission.sh").read_text().replace("'", "")


def test_a_job_that_nobody_can_name_is_cancelled_and_what_sbatch_printed_is_shown(tmp_path, commands):
    calls = commands(sbatch=says("your job 99 was submitted"))
    with pytest.raises(SubmissionError, match="your job 99 was submitted") as raised:
        submit(tmp_path)
    assert not raised.value.transient
    asked, cancelled = (line.partition("--name=")[2] for line in calls.read_text().splitlines()[1:])
    assert asked == cancelled != ""
    assert not list((tmp_path / "jobs").iterdir())


def test_a_job_that_a_slow_controller_took_is_not_submitted_twice(tmp_path, commands):
    commands(sbatch=says("sbatch: error: Socket timed out on send/recv operation", 2, 1), squeue="echo 4711")
    assert submit(tmp_path) == ["4711"]


def compute(**resources):
    return Slurm(1, "none", 90, {"default": {"minutes": 5, **resources}})


def test_while_it_is_tried_again_the_terminal_is_told_at_doubling_intervals(tmp_path, commands, monkeypatch, capfd):
    commands(sbatch=says(FULL, 2, 1))
    clock = iter(float(second) for second in range(0, 100_000, 5))
    monkeypatch.setattr(slurm.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(slurm, "submit_jobs", refusing(FULL))
    notes = []
    with pytest.raises(JobStopped, match="AssocMaxSubmitJobLimit"):
        compute().cluster.submit(step(tmp_path, notes=notes), None)
    assert 5 <= len(notes) <= 8 and all("AssocMaxSubmitJobLimit" in note for note in notes)
    assert capfd.readouterr() == ("", "")


def refusing(text):
    def refuse(*_):
        raise SubmissionError(text)

    return refuse


def test_a_limit_that_this_job_exceeds_by_itself_stops_at_once_and_names_the_key(tmp_path, commands):
    commands(sbatch=says(WALL, 2, 1))
    with pytest.raises(JobStopped, match="QOSMaxWallDurationPerJobLimit.*lower compute.resources.run.minutes"):
        compute().cluster.submit(step(tmp_path), None)


def test_at_the_start_a_full_queue_is_no_refusal_and_every_other_line_is(commands):
    commands(sbatch=says(FULL.replace("Batch job submission failed", "allocation failure"), 2, 1))
    compute().check(["run"])
    commands(sbatch=says(MEMORY, 2, 1))
    with pytest.raises(ComputeError, match="compute.resources.run: sbatch says: This cluster assigns memory by cores"):
        compute().check(["run"])


def test_a_job_that_fits_no_node_names_the_keys_and_the_sizes_of_nodes(commands):
    commands(sbatch=says(NODES, 2, 1), sinfo="echo 'cpu* has nodes of 4 cpus, 8000 MB, gres (null)'")
    with pytest.raises(ComputeError) as raised:
        compute().check(["run"])
    assert "compute.resources.run.memory_gb" in str(raised.value) and "4 cpus, 8000 MB, gres none" in str(raised.value)


def parameters(**resources):
    return compute(**resources).parameters("run")


def test_memory_is_requested_in_the_one_form_that_was_chosen():
    assert parameters(memory_gb=2)["mem"] == "2048M" and parameters(memory_gb=0)["mem"] == "0"
    assert parameters(memory_gb=2, extra={"mem-per-cpu": "1G"}).get("mem") is None
    assert parameters().get("mem") is None


def test_a_step_gets_the_variables_of_its_job_after_export_none_too():
    assert "--export=ALL" in parameters(extra={"export": "NONE"})["srun_args"]


def test_a_job_of_several_nodes_starts_its_stage_on_the_first():
    several = compute(nodes=2, cpus=3).parameters("train")
    assert (several["nodes"], several["ntasks_per_node"]) == (2, 1)
    assert {"--nodes=1", "--ntasks=1", "--cpus-per-task=3"} <= {*several["srun_args"]}
    assert "nodes" not in parameters(nodes=1) and "--ntasks=1" not in parameters()["srun_args"]


def test_memory_of_a_pool_is_all_of_the_node_or_in_the_form_of_extra():
    def options(**resources):
        return Allocation(StageResources(minutes=5, **resources), 2, 30, []).options

    assert "--mem=0" in options(memory_gb=0)
    assert [option for option in options(memory_gb=2, extra={"mem-per-cpu": "1G"}) if "mem" in option] == [
        "--mem-per-cpu=1G"
    ]


def test_the_last_line_of_a_log_is_what_the_program_said():
    lines = ["module: not found", "srun: error: c1: task 0: Exited with exit code 1"]
    assert telling_line(lines) == lines[0] and telling_line(lines[1:]) == lines[1]


@pytest.mark.parametrize(
    "line",
    [
        "srun: error: Unable to create step for job 7: Job/step already completing or completed",
        "slurmstepd: error: *** JOB 7 ON c1 CANCELLED AT 2026-11-29T16:00:00 DUE TO TIME LIMIT ***",
    ],
)
def test_a_time_limit_that_was_reached_before_the_stage_names_its_key(tmp_path, line):
    folder = tmp_path / "gen_1" / "run"
    folder.mkdir(parents=True)
    (folder / "7_0_log.err").write_text(line + "\n")
    assert "compute.resources.run.minutes=" in compute()._why(step(tmp_path), "7", JobState("FAILED"))


def test_news_is_repeated_when_the_wait_has_doubled():
    news = RepeatedNews()
    due = [second for second in range(0, 1000, 5) if news.due("waits", second)]
    assert due == [0, 120, 240, 480, 960] and not news.due("", 5000)


def test_variables_of_an_enclosing_job_do_not_reach_the_jobs_of_a_driver(monkeypatch):
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")
    monkeypatch.setenv("MASTER_ADDR", "n1")
    assert not {"SLURM_EXPORT_ENV", "MASTER_ADDR"} & submission.environment_outside_jobs().keys()


def test_the_file_that_names_the_cluster_reaches_sbatch(monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/west.conf")
    assert submission.environment_outside_jobs()["SLURM_CONF"] == "/etc/slurm/west.conf"


# of two clusters of SLURM 22.05 in a federation, asked on the one that does not run the job
REVOKED = "7|REVOKED|None|N/A|cpu"


@pytest.mark.parametrize(
    ("squeue", "sacct", "state"),
    [
        (f"7|RUNNING|None|2026-11-29T18:42:36|cpu\n{REVOKED}", "", "RUNNING"),
        (f"{REVOKED}\n7|COMPLETED|None|2026-11-29T18:42:36|cpu", "", "COMPLETED"),
        (REVOKED, "7|CANCELLED by 0", "CANCELLED"),  # forgotten there, or its controller does not answer
        (REVOKED, "", "REVOKED"),
        ("", "", "LOST"),
    ],
)
def test_a_job_of_a_federation_is_followed_on_the_cluster_that_runs_it(commands, squeue, sacct, state):
    calls = commands(squeue=says(squeue), sacct=says(sacct))
    assert slurm.QueueMonitor()._ask(["7"])["7"].name == state
    assert all("--sibling" in call or "--federation" in call for call in calls.read_text().splitlines())
    assert "REVOKED" not in ENDED


def test_workers_of_a_pool_are_started_on_the_cluster_that_gave_the_allocation(tmp_path, commands):
    worker = "for a in 1 2; do echo ready; done; cat >/dev/null"
    calls = commands(salloc="echo 7 west; cat >/dev/null", srun=worker)
    allocation = Allocation(StageResources(cpus=1, memory_gb=1, minutes=5), 1, 20, [])
    allocation.start(tmp_path / "log").retire()
    allocation.close()
    assert "srun --clusters=west --jobid=7 " in calls.read_text()
