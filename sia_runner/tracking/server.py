"""The state of W&B: its key and server, which W&B run belongs to a run directory, and the rows that it has."""

import base64
import hashlib
import json
import netrc
import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.store.run_directory import RunDir, read_json, write_json
from sia_runner.wire.grants import ModelsError
from sia_runner.wire.providers import build_opener, ca_hint, through_proxy

_ANSWER_SECONDS = 5.0
_VIEWER_QUERY = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()


def why_offline(settings: Any) -> str:
    """Return why W&B cannot be used, "" if it can. `settings`: wandb's own, with environment and files."""
    if settings.mode in ("offline", "dryrun", "disabled"):
        return f"WANDB_MODE={settings.mode}"
    key, base_url = key_of(settings), settings.base_url
    if not key:
        return f"there is no key for {base_url} (WANDB_API_KEY, or wandb login)"
    login = base64.b64encode(f"api:{key}".encode()).decode()  # in no message
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    try:
        request = urllib.request.Request(f"{base_url.rstrip('/')}/graphql", _VIEWER_QUERY, headers)  # noqa: S310
        with build_opener(base_url).open(request, timeout=_ANSWER_SECONDS) as answer:
            viewer = json.loads(answer.read(1 << 20)).get("data", {}).get("viewer")
    except urllib.error.HTTPError as error:
        return f"{base_url} answers {error.code}" + (": the key is refused" if error.code in (401, 403) else "")
    except (OSError, ValueError, AttributeError, ModelsError) as error:
        cause = getattr(error, "reason", None) or error
        reason = f"{type(error).__name__}: {cause}".splitlines()[0][:120] + ca_hint(cause)
        return f"{base_url} cannot be reached{through_proxy(base_url)} ({reason})"
    return "" if viewer else f"{base_url} does not know the key"


def key_of(settings: Any) -> str:
    """Return the key from the environment or netrc, "" if there is none."""
    if settings.api_key:
        return settings.api_key
    try:
        file = netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc"))
        login = file.authenticators(urllib.parse.urlsplit(settings.base_url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return ""
    return (login and login[2]) or ""


@dataclass(slots=True)
class TrackingState:
    """The state of tracking. `artifacts`: mode -> keys that W&B has; those sent offline must still be pushed."""

    id: str
    project: str
    entity: str | None
    mode: str = ""  # online | offline, of the newest process
    artifacts: dict[str, list[str]] = field(default_factory=lambda: {"online": [], "offline": []})

    @staticmethod
    def of(run: RunDir, project: str, entity: str | None, *, elsewhere: bool = False) -> "TrackingState":
        """Return the state of an earlier process, in its project unless it is to go `elsewhere`, or a new one."""
        file = run.tracking / "wandb.json"
        if file.is_file():
            state = TrackingState(**read_json(file))
            if elsewhere and (state.project, state.entity) != (project, entity):
                state.project, state.entity, state.artifacts["online"] = project, entity, []
            return state
        with run.journal.open("rb") as lines:  # an id of its first line: a copy of the directory is still the same run
            return TrackingState(hashlib.sha256(lines.readline()).hexdigest()[:16], project, entity)

    def save(self, run: RunDir) -> None:
        """Write the state."""
        run.tracking.mkdir(exist_ok=True)
        write_json(run.tracking / "wandb.json", asdict(self))


def count_rows_in_wandb(folder: Path, run_id: str) -> int:
    """Return how many rows are in the files that earlier processes left below `folder`."""
    rows, quiet = 0, subprocess.DEVNULL
    for file in folder.glob(f"wandb/*run-*/run-{run_id}.wandb"):
        # wandb's own reader stops where a file was cut
        command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", str(file), "--json"]
        with subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet) as process:
            for line in process.stdout or ():
                if b'"type":"history"' in line:
                    rows = max(rows, 1 + int(json.loads(line)["history"]["step"].get("num", 0)))
            process.wait(120.0)
    return rows
