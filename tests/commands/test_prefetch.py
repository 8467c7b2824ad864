"""``python -m sia_runner prefetch``: what a run would download is there before it; the run then needs no network."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sia_runner.__main__ import main
from sia_runner.commands.prefetch import prefetch
from sia_runner.config.experiment import check_experiment
from sia_runner.sandbox.docker import Docker
from sia_runner.sandbox.protocol import SandboxError
from tests.arithmetic import BARE
from tests.config.test_providers import composed
from tests.conftest import ROOT

NO_TRAINING = importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None
POLICY = ["task=arithmetic", "target_agent=policy", "target_agent.policy.max_tokens=4"]  # hardly trained, it rambles
needs_training = pytest.mark.skipif(NO_TRAINING, reason="needs the extra training (torch, transformers, peft)")


def fetched(*overrides):
    return [(got.name, got.state) for got in prefetch(check_experiment(composed(*overrides)))]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("SIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def without_network():
    """The words before a command that take its network away."""
    words = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here (unshare --net)")
    return words


def test_the_second_time_everything_is_there(cache):
    assert fetched("task=smoke") == [("data", "fetched")]
    before = sorted(cache.rglob("*"))
    assert fetched("task=smoke") == [("data", "there")]
    assert sorted(cache.rglob("*")) == before


@needs_training
@pytest.mark.slow
def test_a_tiny_policy_is_built_and_the_run_needs_no_network_then(cache, cli, without_network):
    tiny = [*POLICY, "+task.tiny.epochs=1", "max_gen=1"]
    assert fetched(*tiny) == [("data", "fetched"), ("policy", "fetched")]
    assert fetched(*tiny) == [("data", "there"), ("policy", "there")]
    done = subprocess.run(
        [*without_network, *cli.command(*tiny)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "warming" not in done.stderr and cli.summary["status"] == "completed"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as `snapshot_download` asks for: one model, `us/tiny`, the files of `folder`."""

    folder: Path
    asked: list[str]
    commit = "c" * 40

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        name = self.path.rpartition("/")[2]
        files = sorted(self.folder.iterdir())
        if self.path.startswith("/api/models/us/tiny/tree/"):
            tree = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40} for file in files]
            self._answer(json.dumps(tree).encode(), "tree")
        elif self.path.startswith("/api/models/us/tiny/"):
            siblings = [{"rfilename": file.name} for file in files]
            self._answer(json.dumps({"id": "us/tiny", "sha": self.commit, "siblings": siblings}).encode(), "list")
        elif self.path.startswith("/us/tiny/resolve/") and (self.folder / name).is_file():
            self._answer((self.folder / name).read_bytes(), None)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, body, etag):
        self.send_response(200)
        self.send_header("ETag", f'"{etag or sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    Hub.folder, Hub.asked = tmp_path / "at_the_hub", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@needs_training
@pytest.mark.slow
def test_a_base_of_the_hub_is_downloaded_once_and_found_without_network(cache, cli, hub, tmp_path, without_network):
    small = [*POLICY, "+task.tiny.epochs=1"]
    assert dict(fetched(*small))["policy"] == "fetched"
    (made,) = (cache / "policies").glob("*/")
    shutil.copytree(made, Hub.folder)
    of_hub = [*small, "target_agent.policy.base=us/tiny", "max_gen=1"]
    here = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "SIA_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    env = {**os.environ, **here}

    def prefetched():
        line = [sys.executable, "-m", "sia_runner", "prefetch", *of_hub]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return [text.split()[:2] for text in done.stdout.splitlines()[:2]]

    assert prefetched() == [["there", "data"], ["fetched", "policy"]]
    assert any(line.endswith("/model.safetensors") for line in Hub.asked)
    Hub.asked.clear()
    assert prefetched() == [["there", "data"], ["there", "policy"]]
    assert not [line for line in Hub.asked if line.startswith("GET") and "/resolve/" in line]
    line = [*without_network, *cli.command(*of_hub, *cli.replay(BARE))]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=240, env=env)
    assert done.returncode == 0, done.stderr
    assert cli.summary["status"] == "completed"


def test_environments_of_harnesses_are_built(cache, cli):
    uv = pytest.importorskip("uv", reason="needs the extra installs (uv)")
    assert uv
    (harness := cli.folder / "harnesses" / "gen_1").mkdir(parents=True)
    (harness / "target_agent.py").write_text("")
    (harness / "requirements.txt").write_text("# nothing beyond Python\n")
    replay = ["meta_agent=replay", f"meta_agent.dir={harness.parent}", "max_gen=1", "sandbox=process"]
    assert fetched(*replay, "sandbox.allow_installs=true")[1:] == [("environment", "fetched")]
    assert fetched(*replay, "sandbox.allow_installs=true")[1:] == [("environment", "there")]
    assert fetched(*replay)[1:] == [("environment", "MISSING")]  # a run would refuse it too


def test_what_is_missing_says_what_to_do_and_keeps_nothing_else_from_being_fetched(cache, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(cache))  # no apptainer
    assert main(["prefetch", "task=smoke", "sandbox=apptainer", "sandbox.image=none.sif"]) == 1
    data, image, *_ = capsys.readouterr().out.splitlines()
    assert data.split()[:2] == ["fetched", "data"]
    assert image.split()[:2] == ["MISSING", "image"] and "sandbox.image=none.sif: no such" in image


def test_an_image_file_is_built_once(cache, tmp_path, monkeypatch):
    """By a stand-in for apptainer, which looks whether it is given what the real one needs."""
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    needs = '[ "$1" != build ] || { [ -f "$3" ] && [ -f sia_runner/sandbox/image/requirements.txt ] && echo > "$2"; }'
    program.write_text(f"#!/bin/sh\n{needs}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    asked = ("task=smoke", "sandbox=apptainer", f"sandbox.image={tmp_path / 'image.sif'}")
    assert fetched(*asked)[1:] == [("image", "fetched")]
    assert fetched(*asked)[1:] == [("image", "there")]


def test_an_image_on_the_docker_engine_is_there(cache):
    image = os.environ.get("SIA_IMAGE", "sia-runner-sandbox")
    try:
        known = Docker(image).versions()["id"]
    except SandboxError as absent:
        pytest.skip(f"{absent}; tests/engines/docker.sh up")
    *_, got = prefetch(check_experiment(composed("task=smoke", "sandbox=docker", f"sandbox.image={image}")))
    assert got.state == "there" and known[:19] in got.text


def test_what_is_asked_for_while_the_run_goes_on_is_named(cache):
    custom = ["provider=custom", "provider.base_url=http://127.0.0.1:1/v1", "provider.model=any", "provider.key=null"]
    got = {one.name: one for one in prefetch(check_experiment(composed("task=smoke", *custom)))}
    assert got["provider"].state == "network" and "http://127.0.0.1:1/v1" in got["provider"].text


def test_a_refused_configuration_is_one_line(capsys):
    assert main(["prefetch", "task=smok"]) == 2
    assert capsys.readouterr().err.startswith("refused: task=smok: no such choice; did you mean 'smoke'?")


def test_both_container_recipes_make_the_same_image():
    docker = (ROOT / "sia_runner/sandbox/image/Dockerfile").read_text()
    apptainer = (ROOT / "slurm/apptainer.def").read_text()
    base = next(line.split()[1] for line in docker.splitlines() if line.startswith("FROM "))
    assert f"\nBootstrap: docker\nFrom: {base}\n" in apptainer
    (source, _) = apptainer.partition("%files\n")[2].splitlines()[0].split()
    assert (ROOT / source).is_file() and "pip install --no-cache-dir -r /tmp/requirements.txt" in apptainer
