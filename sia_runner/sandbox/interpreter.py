"""The files that a harness's Python needs: these are visible to it, read-only, and nothing else of the host."""

import os
import sys
from pathlib import Path

from sia_runner.sandbox.protocol import Job, SandboxError

# Not /usr as a whole: container images keep their application under /usr/src.
_SYSTEM = (
    "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/share",
    "/usr/local/bin", "/usr/local/lib", "/usr/local/lib64", "/nix/store", "/gnu/store",
)  # fmt: skip
TOP = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # links into /usr, or folders on older systems
_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")


def python_of(job: Job) -> str:
    """Return the absolute path of the job's interpreter."""
    return os.path.abspath(job.python or sys.executable)


def prefixes() -> list[str]:
    """Return the folders of the runner's own Python: its virtual environment and its base installation."""
    return sorted({sys.prefix, sys.base_prefix})


def shown(python: str) -> list[str]:
    """List visible absolute paths, outer ones first: system libraries, the interpreter and its environment.

    `python` is the runner's interpreter or that of an environment built on it (see `environments`).
    """
    folders = {os.path.realpath(sys.base_prefix), sys.base_prefix, sys.base_exec_prefix}
    if python == os.path.abspath(sys.executable):
        folders |= {sys.prefix, sys.exec_prefix}
    else:
        folders.add(os.fspath(Path(python).parent.parent))
    for folder in folders:
        _refuse_too_much(folder)
    existing = {path for path in (*_SYSTEM, *_ETC, *folders, *_links(python)) if os.path.exists(path)}
    covering = [path for path in sorted(existing) if path != "/usr"]
    return [path for path in covering if not any(_inside(path, other) for other in covering if other != path)]


def certificates() -> list[str]:
    """Return the paths where OpenSSL looks for public certificates.

    Clients of models load them before they look at the URL, and fail where the files are seen but cannot be read.
    """
    import ssl

    paths = ssl.get_default_verify_paths()
    return [os.path.realpath(path) for path in (paths.openssl_cafile, paths.openssl_capath)]


def refuse_shown(paths: list[str], shown_paths: list[str]) -> None:
    """Raise SandboxError when a folder of the run lies where every harness can read."""
    for path in paths:
        for folder in shown_paths:
            if _inside(os.path.realpath(path), os.path.realpath(folder)):
                raise SandboxError(f"{path} lies inside {folder}, which every harness can read; move the run directory")


def _links(python: str) -> list[str]:
    """List each file on the way from a venv's ``bin/python`` to the real program; only files, never folders."""
    paths = []
    while os.path.islink(python):
        python = os.path.normpath(os.path.join(os.path.dirname(python), os.readlink(python)))
        paths.append(python)
    return paths


def _refuse_too_much(prefix: str) -> None:
    if prefix == "/" or _inside(os.path.realpath(Path.home()), os.path.realpath(prefix)):
        raise SandboxError(
            f"Python is installed at {prefix}, which holds the home folder; use a virtual environment or another Python"
        )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
