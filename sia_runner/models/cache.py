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

_TAGS = ("user", "metadata")  # fields that identify the caller and do not change the answer


class Cache:
    """One session's view of the cache folder.

    A request repeated in one session gets a different answer each time: a harness may sample several answers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._repeats: Counter[str] = Counter()

    def path_of(self, request: Asked, hosted: Hosted) -> Path:
        """Return the path of the answer to this request, counting repetitions of the same request."""
        body = {name: value for name, value in request.body.items() if name not in _TAGS}
        target = [hosted.base_url, hosted.litellm, hosted.api, request.api, dict(request.headers), request.wants_usage]
        key = hashlib.sha256(json.dumps([target, body], sort_keys=True).encode()).hexdigest()
        repeat = self._repeats[key]
        self._repeats[key] += 1
        return self._folder / key[:2] / f"{key}-{repeat}"

    def get(self, path: Path) -> bytes | None:
        """Return the stored answer, or None."""
        try:
            return path.read_bytes()
        except OSError:
            return None

    def put(self, path: Path, answer: bytes) -> None:
        """Store an answer atomically. Errors are ignored: an unwritable cache must not fail a paid call."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "wb") as stream:
                stream.write(answer)
            Path(temporary).replace(path)
