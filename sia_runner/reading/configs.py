"""A bounded reader of a run's config.yaml, which anybody may have written."""

from pathlib import Path
from typing import Any

import yaml

from sia_runner.reading.files import text

DEEPEST = 100  # nested collections


def config(run: Path) -> dict[str, Any]:
    """Return config.yaml as plain data, or an empty dict if it cannot be read."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if PyYAML was built with libyaml
    try:
        source = text(run, "config.yaml", 1 << 20) or ""
        if _depth(source, loader) > DEEPEST:
            return {}
        data = yaml.load(source, Loader=loader)  # noqa: S506 - both are safe
        return data if isinstance(data, dict) else {}
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}


def _depth(source: str, loader: Any) -> int:
    """Return the nesting depth of collections. The C loader recurses without a bound, so deep files would crash it."""
    deepest = depth = 0
    for event in yaml.parse(source, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if deepest > DEEPEST:
            break
    return deepest
