"""Shared by all tests: the real command line as a process, and small harnesses to feed it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.harnesses import WORDS

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Two test processes with two threads each on two cores would take turns at waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.unsetenv("COLUMNS")  # readline, which pytest imports, sets it for child processes behind os.environ

# A shell's background jobs ignore Ctrl-C, and so would every run that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Generated data goes to a cache of this session, so that a test never depends on what a machine had. The processes
    of pytest-xdist share one, as runs do: what takes a minute to make is made once. `SIA_TESTS_CACHE`: a folder that
    several sessions share, as the stages of .ci/run do."""
    ours = tmp_path_factory.getbasetemp()
    folder = (ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "cache"
    folder = Path(os.environ.get("SIA_TESTS_CACHE") or folder)
    folder.mkdir(exist_ok=True)
    before = os.environ.get("SIA_CACHE")
    os.environ["SIA_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SIA_CACHE"]
    else:
        os.environ["SIA_CACHE"] = before


@pytest.fixture
def earlier_runs(tmp_path):
    """A folder with two finished runs that the version d029a29 wrote: `sia_h` (smoke) and `sia_wh` (arithmetic)."""
    folder = tmp_path / "earlier"
    for name in ("sia_h", "sia_wh"):
        with tarfile.open(ROOT / "tests" / "fixtures" / "runs_d029a29" / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return folder


class Cli:
    """``cli("task=smoke", "max_gen=2")`` runs the real command; the run directory is `cli.run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"

    def command(self, *args: str) -> list[str]:
        where = (
            []
            if any(a.startswith(("resume=", "hydra.run.dir=", "--", "-m")) for a in args)
            else [f"hydra.run.dir={self.run}"]
        )
        return [sys.executable, "-m", "sia_runner", *args, *where]

    def __call__(
        self, *args: str, timeout: float = 120, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*args),
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *args: str, **kwargs) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*args), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
        )

    def replay(self, *harnesses: str | dict[str, str]) -> list[str]:
        """Overrides that make the run propose exactly these programs, one a generation."""
        folder = self.folder / "harnesses"
        for n, files in enumerate(harnesses, 1):
            named = {"target_agent.py": files} if isinstance(files, str) else files
            for name, text in named.items():
                path = folder / f"gen_{n}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text.encode(errors="surrogateescape"))
        return ["meta_agent=replay", f"meta_agent.dir={folder}", f"max_gen={len(harnesses)}"]

    @property
    def summary(self) -> dict:
        return json.loads((self.run / "summary.json").read_text())

    @property
    def journal(self) -> list[dict]:
        return [json.loads(line) for line in (self.run / "journal.jsonl").read_text().splitlines()]


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path)


@pytest.fixture
def words():
    return WORDS


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by Playwright. Gone after the module: other tests look for processes that are left."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    pytest.importorskip("fastapi", reason="the extra `web` is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
