"""The folders of a prepared competition, and the call of mlebench that prepares one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from sia_runner.tasks.protocol import TaskError

_INSTALL = "pip install git+https://github.com/openai/mle-bench (it is not on the package index)"
_KEYS = "Kaggle's credentials (KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json), its rules accepted there"
_SECONDS = 6 * 3600  # some competitions are hundreds of gigabytes


def mlebench_data_dir(prepared: str | None) -> Path:
    """Return `task.prepared`, or the folder where mlebench keeps its data."""
    if prepared:
        return Path(prepared).expanduser().resolve()
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(caches) / "mle-bench" / "data"


def candidate_folders(folder: Path, competition: str) -> list[Path]:
    """Return the folders that may hold public/ and private/: of mlebench, and of a sia-agent task made of it."""
    return [
        folder / competition / "prepared",
        folder / competition / "data",
        folder / "prepared",
        folder / "data",
        folder,
    ]


def find_prepared(folder: Path, competition: str) -> Path | None:
    """Return the folder with public/ and private/; None where the competition is not prepared."""
    candidates = candidate_folders(folder, competition)
    return next((path for path in candidates if (path / "public").is_dir() and (path / "private").is_dir()), None)


def mlebench_package() -> Path | None:
    """Return the folder of the installed mlebench package, without importing it; None where it is not installed."""
    try:
        spec = importlib.util.find_spec("mlebench")
    except (ImportError, ValueError):
        return None
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


def not_prepared_error(folder: Path, competition: str) -> TaskError:
    """Return the error for a competition that is not prepared and cannot be."""
    return TaskError(
        f"task.competition={competition}: no {competition}/prepared/public and private in {folder} (task.prepared); "
        f"make it with `mlebench prepare -c {competition} --data-dir {folder}`, which takes {_KEYS}; {_INSTALL}"
    )


def fetch_competition(folder: Path, competition: str) -> None:
    """Let the installed package download and prepare a competition, with the user's environment. Raises TaskError."""
    command = [sys.executable, "-c", "from mlebench.cli import main; main()", "prepare", "-c", competition]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        completed = subprocess.run(
            [*command, "--data-dir", str(folder)],
            cwd=folder,  # mlebench keeps a cache of its own in the current folder
            stdin=subprocess.DEVNULL,  # it would ask whether to open the page with the rules
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        problem = completed.stderr.strip().rpartition("\n")[2][:300] if completed.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"it did not end within {_SECONDS // 3600} hours"
    if problem:
        raise TaskError(f"mlebench prepare -c {competition} failed: {problem}; it takes {_KEYS}")
