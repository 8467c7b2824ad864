"""Answers kept on disk, keyed by the whole request."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

from sia_runner.models.wire import Asked
from sia_runner.schema.provider import Hosted

_TAGS = ("user", "metadata")  # say whose call it is, not what is asked


class Cache:
    """One sandbox's view of the folder. What it asks twice in the same words are two answers: a harness that samples
    an answer several times must not get one answer several times."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: Counter[str] = Counter()

    def place(self, asked: Asked, hosted: Hosted) -> Path:
        body = {name: value for name, value in asked.body.items() if name not in _TAGS}
        where = [hosted.base_url, hosted.litellm, hosted.api, asked.api, dict(asked.headers), asked.wants_usage]
        key = hashlib.sha256(json.dumps([where, body], sort_keys=True).encode()).hexdigest()
        nth = self._asked[key]
        self._asked[key] += 1
        return self._folder / key[:2] / f"{key}-{nth}"

    def get(self, place: Path) -> bytes | None:
        try:
            return place.read_bytes()
        except OSError:
            return None

    def put(self, place: Path, answer: bytes) -> None:
        """Written beside and renamed. A cache that cannot be written is no reason to fail a paid call."""
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=place.parent)
            with os.fdopen(handle, "wb") as stream:
                stream.write(answer)
            Path(temporary).replace(place)
