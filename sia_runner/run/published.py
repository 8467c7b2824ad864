"""The figures that others report on a task, shown beside our own with the difference in protocol."""

from collections.abc import Mapping
from typing import Any

NAMES = {"initial": "initial", "prior": "prior", "sia_h": "SIA-H", "sia_wh": "SIA-W+H"}


def published_lines(declared: Mapping[str, Any] | None) -> list[str]:
    """Return the lines on `task.published`; none where nothing is declared. These figures decide nothing."""
    if not declared:
        return []
    figures = [f"{label} {figure(declared[key])}" for key, label in NAMES.items() if declared[key] is not None]
    return [
        f"published: {', '.join(figures) or 'no figure'} ({declared['source']})",
        f"  its protocol differs: {declared['protocol']}",
    ]


def figure(value: float) -> str:
    """Format with three decimals like our own scores, or none for values in a small unit (12,483 microseconds)."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
