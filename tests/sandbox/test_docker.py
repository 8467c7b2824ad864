"""Particulars of containers: the image, the engine, and limits that are proven before they are relied on."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sia_runner.sandbox import docker as docker_module
from sia_runner.sandbox.docker import Docker
from sia_runner.sandbox.protocol import Ending, SandboxError
from tests.sandbox.conftest import IMAGE, Box, make_box


@pytest.fixture
def docker(request: pytest.FixtureRequest, public_home: Path) -> Box:
    import os

    return make_box(request, f"docker-{'root' if os.geteuid() == 0 else 'user'}", public_home)


@pytest.fixture
def careless(docker: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    """An engine that takes limits and does not hold them, as rootless ones do: here it is asked for none."""
    ask = docker_module._request

    def without_limits(*arguments: object) -> str:
        import json

        request = json.loads(ask(*arguments))
        for limit in ("Memory", "MemorySwap", "PidsLimit"):
            del request["HostConfig"][limit]
        return json.dumps(request)

    monkeypatch.setattr(docker_module, "_request", without_limits)
    docker_module._ignored.cache_clear()
    yield docker
    docker_module._ignored.cache_clear()


def test_an_engine_that_holds_limits_is_found_to(docker: Box) -> None:
    docker_module._ignored.cache_clear()
    assert docker_module._ignored(docker_module._engine(IMAGE)) == ()
    assert len(Docker(IMAGE).gaps()) == 1


def test_an_engine_that_ignores_limits_is_refused_before_the_first_harness(careless: Box) -> None:
    with pytest.raises(SandboxError, match=r"sandbox\.require_limits=false"):
        Docker(IMAGE).check()


def test_where_that_is_accepted_it_is_said_and_limits_are_sampled(careless: Box) -> None:
    sandbox = Docker(IMAGE, require_limits=False)
    sandbox.check()
    assert "ignores limits of memory and processes: they are sampled" in sandbox.gaps()[-1]
    job = careless.job(
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                block = bytearray(60 << 20); block[::4096] = b'x' * len(block[::4096])
                time.sleep(60)
        time.sleep(60)
    """,
        memory_mb=256,
    )
    ended = sandbox.run(job)
    assert ended.ending is Ending.OUT_OF_MEMORY, ended
    assert ended.peak_mb < 256 + 250


def test_the_image_is_pinned_by_its_id_for_the_whole_process(docker: Box) -> None:
    said = Docker(IMAGE).versions()
    assert said["image"] == IMAGE and said["id"].startswith("sha256:")
    assert said["id"] == docker_module._engine(IMAGE).image


def test_an_environment_of_this_machine_is_refused_in_one_line(docker: Box) -> None:
    ended = docker.run_job(replace(docker.job("print(1)"), python=Path(sys.executable))).ended
    assert ended.ending is Ending.NOT_STARTED
    assert ended.detail.startswith(
        "sandbox=docker runs the Python of its image, not an environment of requirements.txt"
    )


@pytest.mark.parametrize(
    ("host", "said"),
    [("unix:///nowhere/docker.sock", "unix:///nowhere/docker.sock"),
     ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1")],
)  # fmt: skip
def test_no_engine_is_one_line(host: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker", reason="NOT TESTED: the docker package is not installed")
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(SandboxError, match=said) as raised:
        Docker(IMAGE).check()
    assert "\n" not in str(raised.value)


def test_a_missing_image_names_the_command_that_makes_it(docker: Box) -> None:
    with pytest.raises(SandboxError, match="docker build -t sia-test-none /.*/image"):
        Docker("sia-test-none").check()


def test_a_job_gives_the_engine_the_gpus_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert docker_module._gpu_request(-1) == {"count": -1}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert docker_module._gpu_request(1) == {"device_ids": ["2"]}
    assert docker_module._gpu_request(-1) == {"device_ids": ["2", "3"]}


def test_containers_are_gone_after_their_run(docker: Box) -> None:
    import time

    docker.run("print(1)")
    api = docker_module._engine(IMAGE).api
    end = time.monotonic() + 10
    while left := api.containers(all=True, filters={"label": docker_module._LABEL}):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_a_container_that_loses_its_first_process_has_ended(docker: Box) -> None:
    """Somebody else may kill it: an administrator, the kernel."""
    import threading

    from tests.sandbox.conftest import wait_until

    job = docker.job("import time; open('running', 'w').close(); time.sleep(100)")

    def kill() -> None:
        wait_until(lambda: (job.work / "running").exists())
        api = docker_module._engine(IMAGE).api
        for container in api.containers(filters={"label": f"{docker_module._LABEL}={job.work.resolve()}"}):
            api.kill(container["Id"])

    thread = threading.Thread(target=kill)
    thread.start()
    ended = docker.run_job(job).ended
    thread.join()
    assert (ended.ending, ended.exit_code) == (Ending.EXITED, 137)


def test_the_sdk_is_loaded_by_nobody_who_does_not_ask_for_it() -> None:
    code = "import sys, sia_runner.sandbox.docker, sia_runner.sandbox.supervisor; print('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
