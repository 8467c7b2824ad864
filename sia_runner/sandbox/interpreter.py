"""The Python that a harness runs on: its visible files, and environments built from a `requirements.txt`.

An environment holds exactly what was asked for and its dependencies, none of the runner's packages. It is built once
per resolved set under the user's cache folder, outside every run. The lines are hostile input, and so are the packages:
only plain requirements, only wheels (building a source distribution runs its code), and the finished environment's
Python is started inside a sandbox only (a .pth file of any package runs when it starts).
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

from sia_runner.sandbox.protocol import SandboxError, SandboxJob
from sia_runner.store.run_directory import write_text
from sia_runner.system import cache_dir

# Not /usr as a whole: container images keep their application under /usr/src.
_SYSTEM = (
    "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/share",
    "/usr/local/bin", "/usr/local/lib", "/usr/local/lib64", "/nix/store", "/gnu/store",
)  # fmt: skip
# links into /usr, or folders on older systems
TOP_LEVEL_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_MINUTES = 15
_MAX_LINES = 100
_MAX_LINE = 500  # characters


def python_path(job: SandboxJob) -> str:
    """Return the absolute path of the job's interpreter."""
    return os.path.abspath(job.python or sys.executable)


def visible_paths(python: str) -> list[str]:
    """List visible absolute paths, outer ones first: system libraries, the interpreter and its environment."""
    folders = {os.path.realpath(sys.base_prefix), sys.base_prefix, sys.base_exec_prefix}
    if python == os.path.abspath(sys.executable):
        folders |= {sys.prefix, sys.exec_prefix}
    else:
        folders.add(os.fspath(Path(python).parent.parent))
    for folder in folders:
        if folder == "/" or _inside(os.path.realpath(Path.home()), os.path.realpath(folder)):
            raise SandboxError(
                f"Python is installed at {folder}, which holds the home folder; "
                "use a virtual environment or another Python"
            )
    links = []  # each file on the way from a venv's bin/python to the real program; only files, never folders
    while os.path.islink(python):
        python = os.path.normpath(os.path.join(os.path.dirname(python), os.readlink(python)))
        links.append(python)
    existing = {path for path in (*_SYSTEM, *_ETC, *folders, *links) if os.path.exists(path)}
    covering = [path for path in sorted(existing) if path != "/usr"]
    return [path for path in covering if not any(_inside(path, other) for other in covering if other != path)]


def certificate_paths() -> list[str]:
    """Return the paths of public certificates, which clients of models load whatever the URL, or else fail."""
    import ssl

    paths = ssl.get_default_verify_paths()
    return [os.path.realpath(path) for path in (paths.openssl_cafile, paths.openssl_capath)]


def refuse_visible(paths: list[str], shown_paths: list[str]) -> None:
    """Raise SandboxError when a folder of the run lies where every harness can read."""
    for path in paths:
        for folder in shown_paths:
            if _inside(os.path.realpath(path), os.path.realpath(folder)):
                raise SandboxError(f"{path} lies inside {folder}, which every harness can read; move the run directory")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def environment_python(requirements: str, allowed: bool) -> Path:
    """Return the Python of an environment for the text of a `requirements.txt`; raise SandboxError if none can be."""
    requested = plain_requirements(requirements)
    if not allowed:
        raise SandboxError("the harness brings requirements.txt, and sandbox.allow_installs is false")
    program = shutil.which("uv")
    uv = [sys.executable, "-m", "uv"] if find_spec("uv") else [program] if program else []
    if not uv:
        raise SandboxError('a harness with requirements.txt needs uv: pip install "sia-runner[installs]"')
    home = cache_dir() / "envs"
    home.mkdir(parents=True, exist_ok=True)
    resolved = _resolved_versions(uv, requested, home)
    digest = _digest(resolved)
    python = home / digest / "bin" / "python"
    if not python.exists():
        with (home / f"{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released at the end of this block, or of this process
            if not python.exists():
                _build(uv, resolved, home / digest)
    return python


def plain_requirements(text: str) -> list[str]:
    """Return lines of names, extras, versions and markers, sorted; raise SandboxError, naming the line, for others."""
    from packaging.requirements import InvalidRequirement, Requirement

    requirements = set()
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.split(" #")[0].strip()
        if not bare or bare.startswith("#"):
            continue
        where = f"requirements.txt line {number} ({bare[:60]!r})"
        if len(bare) > _MAX_LINE or len(requirements) >= _MAX_LINES:
            raise SandboxError(f"{where}: at most {_MAX_LINES} lines of {_MAX_LINE} characters are allowed")
        try:
            requirement = Requirement(bare)
        except InvalidRequirement:
            raise SandboxError(f"{where}: only plain requirements such as 'numpy>=2' are allowed") from None
        if requirement.url:
            raise SandboxError(f"{where}: direct references are refused; only names with versions are allowed")
        requirements.add(str(requirement))
    return sorted(requirements)


def _resolved_versions(uv: list[str], requested: list[str], home: Path) -> str:
    """Return exact versions of everything, one ``name==version`` a line, cached: a resumed run does not get others."""
    lines = "\n".join(requested)
    cached = home / f"{_digest(lines)}.resolved"
    if not cached.exists():
        options = ["--only-binary", ":all:", "--no-header", "--no-annotate", "--python", sys.executable, "-"]
        write_text(cached, _run_uv([*uv, "pip", "compile", "--quiet", *options], lines))
    return cached.read_text()


def _digest(lines: str) -> str:
    return hashlib.sha256(f"{sys.version}\n{sys.base_prefix}\n{lines}".encode()).hexdigest()[:20]


def _build(uv: list[str], resolved: str, home: Path) -> None:
    """Make the environment beside its final place, then rename: a killed build never looks finished."""
    building = Path(tempfile.mkdtemp(prefix="building-", dir=home.parent))
    try:
        building.chmod(0o755)  # a harness may run as another user
        options = ["--relocatable", "--allow-existing", "--python", os.path.realpath(sys.executable)]
        _run_uv([*uv, "venv", "--quiet", *options, os.fspath(building)])
        if resolved.strip():
            options = ["--only-binary", ":all:", "--no-deps", "--link-mode", "copy", "--no-compile-bytecode"]
            python = os.fspath(building / "bin" / "python")
            _run_uv([*uv, "pip", "install", "--quiet", *options, "--python", python, "--requirements", "-"], resolved)
            # with our own Python and without site: compiling reads code, it runs none
            compiling = [sys.executable, "-I", "-S", "-m", "compileall", "-qq", os.fspath(building / "lib")]
            subprocess.run(compiling, capture_output=True, check=False, timeout=60 * _MINUTES)
        building.rename(home)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _run_uv(command: list[str], stdin: str = "") -> str:
    """Run uv and return its output; an empty working folder keeps any project's settings away."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = subprocess.run(
                command, input=stdin, cwd=folder, capture_output=True, text=True, check=False, timeout=60 * _MINUTES
            )
        except subprocess.TimeoutExpired:
            raise SandboxError(f"uv did not finish in {_MINUTES} minutes") from None
    if result.returncode != 0:
        reason = " ".join(result.stderr.split())[:400] or f"exit code {result.returncode}"
        raise SandboxError(f"the environment of requirements.txt cannot be built: {reason}")
    return result.stdout
