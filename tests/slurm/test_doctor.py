"""The doctor's checks of a cluster: of the real one, and of clusters with other settings."""

import errno

import pytest

from sia_runner.commands import cluster_checks, doctor
from sia_runner.commands.checks import FAULT, OK, SKIPPED, run_check
from sia_runner.commands.cluster_checks import CLUSTER_CHECKS
from sia_runner.commands.doctor import run_checks
from sia_runner.config.experiment import check_experiment
from tests.config.test_providers import composed
from tests.scripts.slurm import LITTLE, need_cluster


@pytest.fixture(autouse=True)
def _nothing_remembered():
    cluster_checks._slurm_settings.cache_clear()
    yield
    cluster_checks._slurm_settings.cache_clear()


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The commands of a cluster, by what they print; of no other cluster are there any."""

    def make(**prints):
        for name, text in prints.items():
            (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if "sinfo" not in prints else f"{tmp_path}:/bin")

    (tmp_path / "cat").symlink_to("/bin/cat")
    return make


@pytest.fixture(scope="module")
def config():
    return check_experiment(composed(*LITTLE))


@pytest.mark.slurm
def test_of_the_test_cluster_it_knows_all_that_a_run_depends_on(tmp_path, config):
    need_cluster()
    result = {finding.name: finding for finding in run_checks(config, tmp_path, call=False)}
    assert not [finding for finding in result.values() if finding.state == FAULT]
    assert result["commands"].text.startswith("slurm-wlm ")
    assert "cpu (default): at most 1:00:00, 2 x 4 cpus, 8 GiB" in result["partitions"].text
    assert "gpu:fake:2" in result["partitions"].text
    assert "sbatch accepts jobs for gate, run, test" in result["jobs"].text
    assert "put back into the queue" in result["preemption"].text and result["requeueing"].text.startswith("on:")


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("default.partition=astronomy", "compute.resources.gate: sbatch says: "),
        ("run.minutes=61", "compute.resources.run.minutes=61: partition cpu allows 60 at most"),
        ("train.gpus=h100:1", ""),
    ],
)
def test_jobs_that_sbatch_would_refuse_are_a_fault_that_names_the_kind(key, said):
    need_cluster()
    config = check_experiment(composed(*LITTLE, f"++compute.resources.{key}"))
    result = run_check("jobs", CLUSTER_CHECKS["jobs"], config)
    assert (
        (result.state == FAULT and result.text.startswith(said)) if said else result.state == OK
    )  # nothing trains here


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("PreemptType = preempt/none\nPreemptMode = OFF", "jobs are never preempted"),
        ("PreemptType = preempt/qos\nPreemptMode = CANCEL", "is cancelled; the driver submits it again"),
        ("PreemptType = preempt/qos\nPreemptMode = REQUEUE", "jobs are not warned before"),
        (
            "PreemptType = preempt/qos\nPreemptMode = REQUEUE\nSlurmctldParameters = a,preempt_send_user_signal",
            "jobs are warned before",
        ),
        ("PreemptType = preempt/partition_prio\nPreemptMode = GANG,SUSPEND", "stands still"),
    ],
)
def test_preemption_is_said_as_what_it_does_to_a_run(commands, config, settings, says):
    commands(scontrol=settings)
    assert says in CLUSTER_CHECKS["preemption"](config)


def test_without_accounting_it_says_what_then_counts(commands, config):
    commands(sacct="", scontrol="AccountingStorageType = accounting_storage/none\nMinJobAge = 42 sec")
    assert CLUSTER_CHECKS["accounting"](config).startswith("none: squeue forgets a job 42 sec after its end")


def test_the_limit_of_arrays_is_shown(commands, config):
    commands(scontrol="MaxArraySize            = 5")
    assert CLUSTER_CHECKS["job arrays"](config).startswith("of at most 5 jobs; ")


def test_a_cache_that_cannot_be_written_names_its_variable(config, tmp_path, monkeypatch):
    home, real = tmp_path / "home", doctor.tempfile.TemporaryFile
    home.mkdir()

    def read_only_home(dir):
        if dir == home:
            raise OSError(errno.EROFS, "Read-only file system", f"{home}/tmp1234")
        return real(dir=dir)

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", read_only_home)
    monkeypatch.setattr(doctor, "cache_dir", lambda: home / "cache")
    text = run_check("disk", doctor._check_disk, config, tmp_path / "runs").text
    assert "SIA_CACHE" in text and f"{home}/cache" in text and "tmp1234" not in text
    assert "hydra.run.dir" in run_check("disk", doctor._check_disk, config, home / "runs").text


def test_a_cluster_that_does_not_requeue_is_told_apart(commands, config):
    commands(scontrol="JobRequeue = 0")
    assert CLUSTER_CHECKS["requeueing"](config).startswith("off: ")


def test_sizes_that_differ_and_partitions_without_gpus_are_shown(commands, config):
    commands(sinfo="big*|infinite|3|64|512000+|(null)\nbig*|infinite|1|128|1024000|(null)")
    assert CLUSTER_CHECKS["partitions"](config) == (
        "big (default): at most infinite, 3 x 64 cpus, 500 GiB, 1 x 128 cpus, 1000 GiB; "
        "no GPUs: weights are trained on processors"
    )


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("infinite", float("inf")), ("n/a", float("inf")), ("30:00", 30), ("1:00:00", 60), ("2-01:00:30", 2940.5)],
)
def test_time_limits_are_read_as_slurm_writes_them(limit, minutes):
    assert cluster_checks._parse_minutes(limit) == minutes


def test_missing_commands_are_a_fault(commands, config, monkeypatch, tmp_path):
    commands(sinfo="", sbatch="slurm 1", squeue="", scancel="", scontrol="")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run_check("commands", CLUSTER_CHECKS["commands"], config)
    assert result.state == FAULT and result.text.startswith("srun not found")


def test_variables_of_sbatch_are_named(config, monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    assert CLUSTER_CHECKS["sbatch variables"](config).startswith("SBATCH_ACCOUNT=mine: ")
    monkeypatch.delenv("SBATCH_ACCOUNT")
    assert run_check("sbatch variables", CLUSTER_CHECKS["sbatch variables"], config).state == SKIPPED
