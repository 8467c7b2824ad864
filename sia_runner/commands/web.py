"""The command `web` serves the live dashboard."""

import secrets
import socket
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sia_runner.store.run_directory import RunDirectoryError

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(options: Namespace) -> int:
    """Serve until interrupted or until standard input ends. Raises RunError if packages are missing."""
    folder = Path(options.runs_dir).expanduser().resolve()
    if not folder.is_dir():
        raise RunDirectoryError(f"runs_dir={options.runs_dir}: no such folder")
    try:
        import uvicorn

        from sia_runner.results.web.app import dashboard
    except ImportError as error:
        raise RunDirectoryError(f"the dashboard needs {error.name}: pip install 'sia-runner[web]'") from error
    token, bound = access_token(options), _bind_socket(options.host, options.port)
    host_part = f"[{options.host}]" if ":" in options.host else options.host
    query = f"?token={quote(token)}" if token else ""
    print(f"dashboard of {folder}: http://{host_part}:{bound.getsockname()[1]}/{query}", flush=True)
    for name in options.allow_host:
        path = options.root_path or "/..."
        print(f"through the proxy, below the path that it has for this port: https://{name}{path}/{query}", flush=True)
    app = dashboard(folder, options.host, token, options.allow_host, unquote(options.root_path))
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **quiet))
    if options.until == "stdin":
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    server.run(sockets=[bound])
    return 0


def access_token(options: Namespace) -> str:
    """Return the token that requests need; empty where none is required."""
    needed = options.token == "true" or options.host not in _LOOPBACK or bool(options.allow_host)  # noqa: S105
    return secrets.token_urlsafe(24) if needed else ""


def _bind_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket, before anything else starts, so that a port in use is one line. Raises RunError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)  # early connections wait until the server runs
        return bound
    except OSError as error:
        raise RunDirectoryError(f"host={host} port={port}: {error.strerror}; port=0 takes any that is free") from error


def _end_with_stdin(server: Any) -> None:
    while sys.stdin.buffer.read(1 << 10):
        pass
    server.should_exit = True
