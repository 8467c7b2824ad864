"""The local provider in a process of its own, for tests that kill and for those that measure."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.provider import Tally

ROOT = Path(__file__).resolve().parents[2]
KEY = {"SIA_TEST_KEY": "test-key"}  # environment of a run


class Served:
    """``Served("improving:reply", env)``: `overrides` make a run use it; whoever starts it ends it."""

    def __init__(self, script: str, env: dict[str, str], port: int = 0) -> None:
        path, _, name = script.partition(":")
        command = [
            sys.executable,
            "-m",
            "tests.provider",
            f"{ROOT}/tests/scripts/{path}.py:{name}",
            "--port",
            str(port),
        ]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.base_url = self._process.stdout.readline().strip()

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2].removesuffix("/v1"))

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def overrides(self) -> list[str]:
        return use(self.base_url)

    @property
    def tally(self) -> Tally:
        with urllib.request.urlopen(self.base_url.replace("/v1", "/tally"), timeout=10) as got:
            return Tally(**json.load(got))


def use(base_url: str, model: str = "scripted", api: str = "openai") -> list[str]:
    return [
        "provider=custom",
        f"provider.base_url={base_url}",
        f"provider.model={model}",
        f"provider.api={api}",
        "provider.key=SIA_TEST_KEY",
    ]
