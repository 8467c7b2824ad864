"""A harness's own Python environment, from the `requirements.txt` that it brings.

It holds exactly what was asked for and what that needs, nothing of the runner's packages: a harness that wants
scikit-learn says so. Built once per resolved set under the user's cache folder, outside every run, read-only for the
harness. The lines are hostile input, and so is what they name: only plain requirements, only wheels (building a source
distribution runs its code), and the finished environment's Python is started inside a sandbox only (a .pth file of any
package runs when it starts).
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from sia_runner.ground.resources import cache_dir
from sia_runner.rundir import write_text
from sia_runner.sandbox.protocol import SandboxError

_MINUTES = 15
_MOST = 100  # lines
_LONGEST = 500  # characters of one line


def environment(requirements: str, allowed: bool) -> Path:
    """The interpreter of the environment for this `requirements.txt` (its text), built if it is not cached yet.

    Raises SandboxError, in one line: installs are not allowed, a line is refused, uv is missing, or it failed.
    """
    wanted = plain_requirements(requirements)
    if not allowed:
        raise SandboxError("the harness brings requirements.txt, and sandbox.allow_installs is false")
    uv = _uv()
    home = cache_dir() / "envs"
    home.mkdir(parents=True, exist_ok=True)
    resolved = _resolved(uv, wanted, home)
    digest = _digest(resolved)
    python = home / digest / "bin" / "python"
    if not python.exists():
        with (home / f"{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the end of this block, or of this process
            if not python.exists():
                _build(uv, resolved, home / digest)
    return python


def plain_requirements(text: str) -> list[str]:
    """The requirements as normalised lines, sorted. Names, extras, versions and markers only.

    Raises SandboxError for options (-r, -e, --index-url), URLs, paths and what cannot be parsed, naming the line.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    found = set()
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.split(" #")[0].strip()
        if not bare or bare.startswith("#"):
            continue
        where = f"requirements.txt line {number} ({bare[:60]!r})"
        if len(bare) > _LONGEST or len(found) >= _MOST:
            raise SandboxError(f"{where}: at most {_MOST} lines of {_LONGEST} characters are allowed")
        try:
            requirement = Requirement(bare)
        except InvalidRequirement:
            raise SandboxError(f"{where}: only plain requirements such as 'numpy>=2' are allowed") from None
        if requirement.url:
            raise SandboxError(f"{where}: direct references are refused; only names with versions are allowed")
        found.add(str(requirement))
    return sorted(found)


def _uv() -> list[str]:
    if find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    program = shutil.which("uv")
    if program:
        return [program]
    raise SandboxError('a harness with requirements.txt needs uv: pip install "sia-runner[installs]"')


def _resolved(uv: list[str], wanted: list[str], home: Path) -> str:
    """Exact versions of everything, one ``name==version`` a line.

    Kept: the same request means the same versions on this machine, so that a resumed run, or one without network, does
    not get others.
    """
    lines = "\n".join(wanted)
    kept = home / f"{_digest(lines)}.resolved"
    if not kept.exists():
        options = ["--only-binary", ":all:", "--no-header", "--no-annotate", "--python", sys.executable, "-"]
        write_text(kept, _run([*uv, "pip", "compile", "--quiet", *options], lines))
    return kept.read_text()


def _digest(lines: str) -> str:
    return hashlib.sha256(f"{sys.version}\n{sys.base_prefix}\n{lines}".encode()).hexdigest()[:20]


def _build(uv: list[str], resolved: str, home: Path) -> None:
    """Make the environment beside its final place, then rename: a killed build never looks finished."""
    building = Path(tempfile.mkdtemp(prefix="building-", dir=home.parent))
    try:
        building.chmod(0o755)  # a harness may run as another user
        options = ["--relocatable", "--allow-existing", "--python", os.path.realpath(sys.executable)]
        _run([*uv, "venv", "--quiet", *options, os.fspath(building)])
        if resolved.strip():
            options = ["--only-binary", ":all:", "--no-deps", "--link-mode", "copy", "--no-compile-bytecode"]
            python = os.fspath(building / "bin" / "python")
            _run([*uv, "pip", "install", "--quiet", *options, "--python", python, "--requirements", "-"], resolved)
            # with our own Python and without site: compiling reads code, it runs none
            compiling = [sys.executable, "-I", "-S", "-m", "compileall", "-qq", os.fspath(building / "lib")]
            subprocess.run(compiling, capture_output=True, check=False, timeout=60 * _MINUTES)
        building.rename(home)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _run(command: list[str], given: str = "") -> str:
    """uv's output. It runs in an empty folder, so that no project's settings reach it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, input=given, cwd=folder, capture_output=True, text=True, check=False, timeout=60 * _MINUTES
            )
        except subprocess.TimeoutExpired:
            raise SandboxError(f"uv did not finish in {_MINUTES} minutes") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:400] or f"exit code {done.returncode}"
        raise SandboxError(f"the environment of requirements.txt cannot be built: {said}")
    return done.stdout
