"""``python -m sia_runner web [runs_dir=runs] [port=8050] [host=127.0.0.1] [token=auto]``: the live dashboard.

runs_dir  a folder of runs, of sweeps, or one run
port      0: any that is free
host      an address of this machine; with any other than loopback every request needs the token that is printed
token     auto, or true: on loopback too, which other users of a shared machine can reach
until     interrupted, or stdin: also ends when its standard input does, for a program that starts it

It shows runs while they are written, and itself writes nothing. On a cluster, from your own machine:
ssh -L 8050:127.0.0.1:8050 LOGIN_NODE"""

import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sia_runner.config.refusals import print_refusals
from sia_runner.store.run_directory import RunDirectoryError

_KEYS = ("runs_dir", "port", "host", "token", "until")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class DashboardOptions:
    """The options of the command."""

    runs_dir: Path
    port: int
    host: str
    token: str  # empty: no token is required
    until_stdin_ends: bool = False


def parse_options(args: Sequence[str]) -> DashboardOptions:
    """Parse the arguments. Raises RunError."""
    values = {"runs_dir": "runs", "port": "8050", "host": "127.0.0.1", "token": "auto", "until": "interrupted"}
    for arg in args:
        key, sign, value = arg.partition("=")
        if not sign or key not in _KEYS:
            raise RunDirectoryError(f"{arg}: no such option; allowed: {', '.join(f'{key}=…' for key in _KEYS)}")
        values[key] = value
    folder = Path(values["runs_dir"]).expanduser().resolve()
    if not folder.is_dir():
        raise RunDirectoryError(f"runs_dir={values['runs_dir']}: no such folder")
    if not values["port"].isdecimal() or int(values["port"]) > 65535:
        raise RunDirectoryError(f"port={values['port']}: allowed: 0 (any) to 65535")
    for key, allowed in (("token", ("auto", "true")), ("until", ("interrupted", "stdin"))):
        if values[key] not in allowed:
            raise RunDirectoryError(f"{key}={values[key]}: allowed: {', '.join(allowed)}")
    needed = values["token"] == "true" or values["host"] not in _LOOPBACK  # noqa: S105
    token = secrets.token_urlsafe(24) if needed else ""
    return DashboardOptions(folder, int(values["port"]), values["host"], token, values["until"] == "stdin")


def bind_socket(host: str, port: int) -> socket.socket:
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


def dashboard_address(bound: socket.socket, host: str, token: str) -> str:
    """Return the address that a browser opens."""
    host_part = f"[{host}]" if ":" in host else host
    return f"http://{host_part}:{bound.getsockname()[1]}/" + (f"?token={quote(token)}" if token else "")


def main(args: Sequence[str]) -> int:
    """Run the command. Return its exit code."""
    if "-h" in args or "--help" in args:
        print(__doc__)
        return 0
    with print_refusals() as outcome:
        parsed = parse_options(args)
        serve(parsed)
        outcome.code = 0
    return outcome.code


def serve(settings: DashboardOptions) -> None:
    """Serve until interrupted. Raises RunError if packages are missing or the address cannot be bound."""
    try:
        import uvicorn

        from sia_runner.results.web.app import dashboard
    except ImportError as error:
        raise RunDirectoryError(f"the dashboard needs {error.name}: pip install 'sia-runner[web]'") from error
    bound = bind_socket(settings.host, settings.port)
    print(f"dashboard of {settings.runs_dir}: {dashboard_address(bound, settings.host, settings.token)}", flush=True)
    app = dashboard(settings.runs_dir, host=settings.host, token=settings.token)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    if settings.until_stdin_ends:
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        print("dashboard ended")


def _end_with_stdin(server: Any) -> None:
    while sys.stdin.buffer.read(1 << 10):
        pass
    server.should_exit = True
