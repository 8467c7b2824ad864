"""The command: what it refuses, and a server that starts, says where it is, and ends."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from sia_runner.__main__ import main
from sia_runner.commands.arguments import parse_command
from sia_runner.commands.web import access_token
from tests.results.writing import summary


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["runs_dir=/nowhere"], "runs_dir=/nowhere: no such folder"),
        (["port=x"], "port: x: allowed: 0 (any) to 65535"),
        (["port=70000"], "port: 70000: allowed"),
        (["token=false"], "token=false: no such choice; allowed: auto, true"),
        (["allow_host=https://hub.example/"], "allow_host: https://hub.example/: allowed: names as in hub.example.org"),
        (["allow_host="], "allow_host: empty: allowed"),
        (["root_path=https://hub.example"], "root_path: https://hub.example: allowed: a path as in /node/HOST/8050"),
        (["--reload"], "--reload: no such option; allowed: allow_host=, host=, port=, root_path=, runs_dir="),
    ],
)
def test_one_line_says_what_is_wrong_and_what_is_allowed(capsys, args, said):
    assert main(["web", *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("refused: ") and said in line


@pytest.mark.parametrize(
    ("args", "shortest"), [([], 0), (["host=0.0.0.0"], 32), (["token=true"], 32), (["allow_host=a,b"], 32)]
)
def test_a_token_is_asked_for_where_others_can_reach_it(args, shortest):
    token = access_token(parse_command(["web", *args])[1])
    assert len(token) >= shortest and bool(token) == bool(args)


def test_a_port_in_use_is_refused_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "sia_runner", "web", f"runs_dir={tmp_path}", f"port={taken.getsockname()[1]}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("refused: host=127.0.0.1 port=")
    assert len(result.stderr.splitlines()) == 1


def test_it_serves_and_ends_with_control_c(tmp_path):
    summary(tmp_path / "one")
    command = [sys.executable, "-m", "sia_runner", "web", f"runs_dir={tmp_path}", "port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}api/runs", timeout=30) as answer:
            assert b'"one"' in answer.read()
    finally:
        server.send_signal(signal.SIGINT)
        output = server.communicate(timeout=30)
    assert (server.returncode, output[1]) == (130, "interrupted\n")
