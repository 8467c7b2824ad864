"""What others report on a task, beside our own figures, and in what theirs was another experiment."""

from collections.abc import Mapping
from typing import Any

NAMES = {"initial": "initial", "prior": "prior", "sia_h": "SIA-H", "sia_wh": "SIA-W+H"}


def published_lines(declared: Mapping[str, Any] | None) -> list[str]:
    """Of `task.published`; none where nothing is declared. Their figures decide nothing here."""
    if not declared:
        return []
    given = [f"{said} {figure(declared[key])}" for key, said in NAMES.items() if declared[key] is not None]
    return [
        f"published: {', '.join(given) or 'no figure'} ({declared['source']})",
        f"  its protocol differs: {declared['protocol']}",
    ]


def figure(value: float) -> str:
    """Three decimals as our own scores have, but none where the unit is a small one (12,483 microseconds)."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
