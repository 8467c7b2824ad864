"""compute=…: resources by kind of stage; what SLURM would refuse later is refused at once."""

import pytest
import yaml

from sia_runner.compute.slurm import Slurm
from sia_runner.config.components import ResourcesByStage, StageResources
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.runner import resume_run, stored_config
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from tests.config.test_experiment import composed, faults

SLURM = "compute=slurm"


def resources(**kinds):
    return ResourcesByStage.model_validate({kind: StageResources(**settings) for kind, settings in kinds.items()})


def script(tmp_path, kind, **kinds):
    """Return the lines of the script that submitit would pass to sbatch."""
    from submitit.slurm.slurm import _make_sbatch_string

    compute = Slurm(1, "none", 90, resources(**kinds).model_dump())
    return _make_sbatch_string(command="python", folder=tmp_path, **compute.parameters(kind)).splitlines()


def test_a_kind_takes_from_default_what_it_does_not_say():
    requested = resources(default={"partition": "cpu", "minutes": 60}, train={"partition": "gpu", "gpus": 2})
    assert requested.of("train") == StageResources(partition="gpu", gpus=2, minutes=60)
    assert requested.of("gate") == StageResources(partition="cpu", minutes=60)


def test_zero_gpus_are_not_the_same_as_not_said():
    requested = resources(default={"gpus": 1, "minutes": 5}, gate={"gpus": 0})
    assert requested.of("gate").gpus == 0 and requested.of("run").gpus == 1


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("+compute.resources.run.cpu=2", "compute.resources.run.cpu=2: no such key"),
        ("+compute.resources.rum={}", "compute.resources.rum={}: no such key; did you mean 'run'?"),
        ("compute.resources.default.minutes=null", "compute.resources: default.minutes is needed"),
        ("compute.resources.default.cpus=0", "compute.resources.default.cpus=0: "),
        ("+compute.resources.run.run_in=here", "compute.resources.run.run_in=here: "),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_key(override, line):
    assert any(fault.startswith(line) for fault in faults(SLURM, override)), faults(SLURM, override)


def test_every_option_reaches_sbatch(tmp_path):
    requested = {
        "partition": "gpu",
        "account": "phys",
        "qos": "high",
        "cpus": 3,
        "memory_gb": 1.5,
        "gpus": "a100:2",
        "minutes": 30,
        "constraint": "ib",
        "reservation": "course",
        "nodelist": "n1",
        "exclude": "n2",
        "setup": ["module load cuda"],
        "extra": {"mail-type": "FAIL"},
    }
    lines = script(tmp_path, "run", default=requested)
    options = ["partition=gpu", "account=phys", "qos=high", "cpus-per-task=3", "mem=1536M", "gres=gpu:a100:2"]
    options += [
        "time=30",
        "constraint=ib",
        "reservation=course",
        "nodelist=n1",
        "exclude=n2",
        "mail-type=FAIL",
        "requeue",
    ]
    assert {f"#SBATCH --{option}" for option in [*options, "signal=USR2@90"]} <= set(lines)
    assert "module load cuda" in lines
    assert "--cpus-per-task=3" in lines[-1]


def test_what_is_not_said_is_left_to_the_cluster(tmp_path):
    lines = script(tmp_path, "run", default={"minutes": 5})
    options = {line.split()[1].split("=")[0] for line in lines if line.startswith("#SBATCH")}
    own = {"--requeue", "--signal", "--time", "--nodes", "--job-name", "--output", "--error", "--open-mode"}
    assert options == own


def test_a_short_job_is_warned_later_so_that_it_gets_to_work_at_all(tmp_path):
    assert "#SBATCH --signal=USR2@24" in script(tmp_path, "run", default={"minutes": 2})


def test_a_stored_config_has_every_key_that_a_resume_may_change():
    stored = check_experiment(composed(SLURM)).model_dump(by_alias=True)
    assert "memory_gb" in stored["compute"]["resources"]["gate"]


def test_a_resumed_run_takes_the_file_of_a_key_that_its_jobs_did_not_have(tmp_path, monkeypatch):
    run = RunDir(tmp_path / "run")
    run.config.parent.mkdir()
    stored = check_experiment(composed("provider=openai", "meta_agent=llm", SLURM)).model_dump(by_alias=True)
    run.config.write_text(yaml.safe_dump(stored))
    monkeypatch.chdir(tmp_path)
    assert stored_config(run, ["provider.key_file=key"]).provider.key_file == str(tmp_path / "key")
    with pytest.raises(RunDirectoryError, match="no such key"):
        stored_config(run, ["meta_agent.provider.key_file=key"])
    with pytest.raises(RunDirectoryError, match=r"allowed beside resume=: .*provider\.key_file"):
        resume_run(run.config.parent, ["provider.base_url=http://localhost"])


def test_no_key_of_a_provider_is_in_the_script(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    assert not any("sk-very-secret" in line for line in script(tmp_path, "run", default={"minutes": 2}))
