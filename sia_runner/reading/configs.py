"""config.yaml of a run, which anybody may have written."""

from pathlib import Path
from typing import Any

import yaml

from sia_runner.reading.files import text

DEEPEST = 100  # collections in one another


def config(run: Path) -> dict[str, Any]:
    """config.yaml as plain data; empty where it cannot be read."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    try:
        said = text(run, "config.yaml", 1 << 20) or ""
        if _depth(said, loader) > DEEPEST:
            return {}
        found = yaml.load(said, Loader=loader)  # noqa: S506 - both are safe
        return found if isinstance(found, dict) else {}
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}


def _depth(said: str, loader: Any) -> int:
    """How deep collections stand in one another. The C loader goes down by recursion and has no bound: it crashes."""
    deepest = depth = 0
    for event in yaml.parse(said, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if deepest > DEEPEST:
            break
    return deepest
