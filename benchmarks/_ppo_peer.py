"""The peer of our PPO: the last TRL that has one, in an environment of its own."""

import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from sia_runner.system import cache_dir

TRL = "1.12"
SHARED = ("torch", "transformers", "peft", "accelerate", "datasets")  # as we have them
NAME = f"PPOTrainer of trl {TRL}"


class NoPeer(Exception):
    """trl 1.12 cannot be installed here; the message says why."""


def python() -> str:
    """The interpreter of the environment, built once under the cache folder. Raises NoPeer."""
    home = cache_dir() / "benchmarks" / f"trl-{TRL}-py{sys.version_info.major}{sys.version_info.minor}"
    if not (home / "complete").is_file():
        shutil.rmtree(home, ignore_errors=True)
        print(f"installing trl {TRL} under {home} ...", flush=True)
        _install(home)
        (home / "complete").touch()
    return str(home / "bin" / "python")


def _install(home: Path) -> None:
    with Path(__file__).parents[1].joinpath("pyproject.toml").open("rb") as file:
        ours = tomllib.load(file)["project"]["optional-dependencies"]["training"]
    requirements = [f"trl=={TRL}.*", *(package for package in ours if package.startswith(SHARED))]
    uv = Path(sys.executable).with_name("uv")
    venv.create(home, with_pip=not uv.is_file())
    pip = [str(uv), "pip", "install", "--quiet", "--python", str(home / "bin" / "python")]
    if not uv.is_file():
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([*pip, *requirements], check=True, capture_output=True, text=True, timeout=1800)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = str(error.stderr or error).strip().splitlines()
        raise NoPeer(f"trl {TRL} cannot be installed here: {lines[-1]}") from error
