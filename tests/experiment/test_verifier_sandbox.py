"""The environment of a program that a verifier runs in the sandbox on a GPU."""

import pytest

from sia_runner.experiment.verifier_sandbox import _for_gpus

APPTAINER, DOCKER = "sia_runner.sandbox.apptainer.Apptainer", "sia_runner.sandbox.docker.Docker"


def plan(target, gpus, **environment):
    return {"target": target, "keys": {"image": "image", "gpus": gpus}, "environment": {"PATH": "/bin", **environment}}


def test_apptainer_shows_all_gpus_so_the_jobs_own_is_named_and_the_drivers_libraries_are_found():
    environment = _for_gpus(plan(APPTAINER, -1, CUDA_VISIBLE_DEVICES="3"))
    assert environment == {"LD_LIBRARY_PATH": "/.singularity.d/libs", "CUDA_VISIBLE_DEVICES": "3"}
    assert _for_gpus(plan(APPTAINER, -1)) == {"LD_LIBRARY_PATH": "/.singularity.d/libs"}


@pytest.mark.parametrize(("target", "gpus"), [(DOCKER, 1), (APPTAINER, 0)])
def test_docker_shows_only_those_asked_for_and_without_one_nothing_is_needed(target, gpus):
    assert _for_gpus(plan(target, gpus, CUDA_VISIBLE_DEVICES="3")) == {}
