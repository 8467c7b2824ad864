"""Answers as JSON, whatever a damaged or hostile file made us read: always ASCII, never NaN."""

import json
import math
from typing import Any

from fastapi.responses import JSONResponse


class Reply(JSONResponse):
    """A number that is none becomes null; half a character stays an escape."""

    def render(self, content: Any) -> bytes:
        try:
            return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        except ValueError:
            return json.dumps(_finite(content), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
