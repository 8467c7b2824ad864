"""The keys of a sandbox's section, and the one-line refusal of any other."""

import pytest

from sia_runner.config.experiment import check_experiment
from tests.config.test_experiment import composed, faults


@pytest.mark.parametrize("kind", ["docker", "apptainer"])
def test_an_image_takes_no_environments_of_harnesses(kind: str) -> None:
    (line,) = faults(f"sandbox={kind}", "sandbox.allow_installs=true")
    assert line.startswith("sandbox.allow_installs: true needs a Python of this machine")
    assert line.endswith("allowed: false")


def test_gpus_are_a_number_or_all() -> None:
    assert check_experiment(composed("sandbox=docker", "sandbox.gpus=-1")).sandbox.gpus == -1
    (line,) = faults("sandbox=docker", "sandbox.gpus=-2")
    assert line == "sandbox.gpus=-2: input should be greater than or equal to -1"


def test_keys_of_one_sandbox_are_no_keys_of_another() -> None:
    (line,) = faults("sandbox=bubblewrap", "+sandbox.image=mine")
    assert line.startswith("sandbox.image=mine: no such key")


SSH = ("sandbox=ssh", "sandbox.host=gpu.example.org", "sandbox.user=me")


def test_a_host_is_named_by_what_neither_ssh_nor_a_shell_reads_as_something_else() -> None:
    assert check_experiment(composed(*SSH)).sandbox.backend == "bubblewrap"
    for key, value in (("host", "-oProxyCommand=x"), ("user", "a@b"), ("folder", "relative"), ("python", "python3;x")):
        (line,) = faults(*SSH, f"sandbox.{key}='{value}'")
        assert line.startswith(f"sandbox.{key}={value}: "), line
    (line,) = faults(*SSH, "sandbox.allow_installs=true")
    assert line.startswith("sandbox.allow_installs: true needs a Python of this machine")
