"""API keys, from the environment or a file. They stay in memory: never logged, pickled, journaled or written."""

import os
from collections.abc import Iterable
from pathlib import Path

from sia_runner.models.protocol import ModelsError
from sia_runner.schema.provider import Hosted

_LONGEST = 8192  # characters; real keys have about a hundred


def key_of(hosted: Hosted) -> str | None:
    """Return the provider's key; None where it needs none. Raises ModelsError, which names the setting."""
    if hosted.key is None and hosted.key_file is None:
        return None
    key = os.environ.get(hosted.key, "").strip() if hosted.key else ""
    if not key and hosted.key_file:
        key = _first_line(hosted)
    if not key:
        raise ModelsError(f"provider {hosted.name}: no key; {_remedy(hosted)}")
    if len(key) > _LONGEST or not key.isascii() or not key.isprintable() or " " in key:
        raise ModelsError(
            f"provider {hosted.name}: the value of {hosted.key or 'provider.key_file'} is not a valid key"
        )
    return key


def redact(text: str, keys: Iterable[str | None]) -> str:
    """Return `text` without any of the keys: providers repeat a refused key in their message."""
    for key in sorted(filter(None, keys), key=len, reverse=True):
        text = text.replace(key, "[key]")
    return text


def _first_line(hosted: Hosted) -> str:
    path = Path(str(hosted.key_file)).expanduser()
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(_LONGEST + 2).strip()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ModelsError(f"provider {hosted.name}: provider.key_file={path} cannot be read ({why})") from None


def _remedy(hosted: Hosted) -> str:
    if hosted.key is None:
        return f"the first line of provider.key_file={hosted.key_file} is empty"
    return f"set {hosted.key} in the environment or provider.key_file"
