"""A short check for a W&B key and a server that accepts it.

A server that is away then costs seconds and not wandb's own minutes.
"""

import base64
import json
import netrc
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

_TIMEOUT = 5.0  # seconds for one answer
_QUERY = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()


def why_offline(settings: Any) -> str:
    """Return why W&B cannot be used, "" if it can. `settings`: wandb's own, with environment and files."""
    if settings.mode in ("offline", "dryrun", "disabled"):
        return f"WANDB_MODE={settings.mode}"
    key = key_of(settings)
    if not key:
        return f"there is no key for {settings.base_url} (WANDB_API_KEY, or wandb login)"
    return _refusal(settings.base_url, key)


def key_of(settings: Any) -> str:
    """Return the key from the environment or netrc, "" if there is none."""
    if settings.api_key:
        return settings.api_key
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        login = netrc.netrc(str(file)).authenticators(urllib.parse.urlsplit(settings.base_url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return ""
    return (login and login[2]) or ""


def _refusal(base_url: str, key: str) -> str:
    """Return why the server refuses the key, "" if it accepts it. The key is in no message."""
    headers = {
        "Authorization": "Basic " + base64.b64encode(f"api:{key}".encode()).decode(),
        "Content-Type": "application/json",
    }
    try:
        request = urllib.request.Request(f"{base_url.rstrip('/')}/graphql", _QUERY, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - the user's own address
            viewer = json.loads(answer.read(1 << 20)).get("data", {}).get("viewer")
    except urllib.error.HTTPError as error:
        return f"{base_url} answers {error.code}" + (": the key is refused" if error.code in (401, 403) else "")
    except (OSError, ValueError, AttributeError) as error:
        return f"{base_url} cannot be reached ({_short(error)})"
    return "" if viewer else f"{base_url} does not know the key"


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(error).__name__}: {reason}".splitlines()[0][:120]
