"""The peer, sia-agent, in an environment of its own."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from _watch import environment

from sia_runner.system import cache_dir

VERSION = "0.6.0"
NAME = f"sia-agent {VERSION}"


class NoPeer(Exception):
    """sia-agent cannot be installed here; the message says why."""


class Peer:
    """Commands of sia-agent, and where its runs keep what target agents print."""

    name = NAME

    def __init__(self) -> None:
        self._bin = _installed() / "bin"

    def environment(self) -> dict[str, str]:
        """The user's own, with the uv beside this Python first: sia-agent installs faster where it finds one."""
        own = environment()
        return own | {"PATH": f"{Path(sys.executable).parent}:{own['PATH']}"}

    def help(self) -> list[str]:
        return [str(self._bin / "sia"), "--help"]

    def tasks(self, folder: Path) -> dict[str, list[str]]:
        return {"": ["--task_dir", str(folder)]}

    def run(self, task: list[str], harnesses: Path, max_gen: int) -> list[str]:
        """Return the command, to be started in an empty folder; the dashboard is off, since it would add cost."""
        launcher = Path(__file__).with_name("_peer_launcher.py")
        command = [str(self._bin / "python"), str(launcher), str(harnesses), "run", *task]
        return [*command, "--max_gen", str(max_gen), "--no-web"]

    def logs(self, folder: Path) -> dict[Path, int]:
        paths = folder.glob("runs/run_1/gen_*/target_agent_stdout.log")
        return {log: int(log.parent.name.removeprefix("gen_")) for log in paths}

    def roles(self, pid: int) -> list[tuple[str, int]]:
        return [("main process", pid)]


def _installed() -> Path:
    """Build the environment once, under the cache folder. Raises NoPeer."""
    home = cache_dir() / "benchmarks" / f"sia-agent-{VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    if (home / "complete").is_file():
        return home
    shutil.rmtree(home, ignore_errors=True)
    print(f"installing {NAME} under {home} ...", flush=True)
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([*pip, f"sia-agent=={VERSION}"], check=True, capture_output=True, text=True, timeout=900)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = str(error.stderr or error).strip().splitlines()
        raise NoPeer(f"{NAME} cannot be installed here: {lines[-1]}") from error
    (home / "complete").touch()
    return home
