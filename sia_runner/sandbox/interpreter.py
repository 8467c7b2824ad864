"""Which files a harness's Python needs: these are shown to it, read-only, and nothing else of the host."""

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
    return os.path.abspath(job.python or sys.executable)


def prefixes() -> list[str]:
    """Where the runner's own Python lies: its virtual environment and what that is built on."""
    return sorted({sys.prefix, sys.base_prefix})


def shown(python: str) -> list[str]:
    """Absolute paths, outer ones first: system libraries, the interpreter's installation and its virtual environment.

    `python` is the runner's interpreter or that of an environment built on it (see `environments`).
    """
    folders = {os.path.realpath(sys.base_prefix), sys.base_prefix, sys.base_exec_prefix}
    if python == os.path.abspath(sys.executable):
        folders |= {sys.prefix, sys.exec_prefix}
    else:
        folders.add(os.fspath(Path(python).parent.parent))
    for folder in folders:
        _refuse_too_much(folder)
    wanted = {path for path in (*_SYSTEM, *_ETC, *folders, *_links(python)) if os.path.exists(path)}
    covering = [path for path in sorted(wanted) if path != "/usr"]
    return [path for path in covering if not any(_inside(path, other) for other in covering if other != path)]


def certificates() -> list[str]:
    """Where OpenSSL looks for public certificates: clients of models load them before they look at the URL, and fail
    where they are seen and cannot be read."""
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
    """Each file on the way from a venv's ``bin/python`` to the real program; only the file, never its folder."""
    found = []
    while os.path.islink(python):
        python = os.path.normpath(os.path.join(os.path.dirname(python), os.readlink(python)))
        found.append(python)
    return found


def _refuse_too_much(prefix: str) -> None:
    if prefix == "/" or _inside(os.path.realpath(Path.home()), os.path.realpath(prefix)):
        raise SandboxError(
            f"Python is installed at {prefix}, which holds the home folder; use a virtual environment or another Python"
        )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
