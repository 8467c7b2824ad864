"""JSON answers that stay valid whatever a damaged or hostile file contained: always ASCII, never NaN."""

import json
import math
from typing import Any

from fastapi.responses import JSONResponse


class Reply(JSONResponse):
    """A JSON answer. Numbers that are not finite become null; a lone surrogate stays an escape."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of the answer."""
        try:
            return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        except ValueError:
            return json.dumps(_finite(content), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
