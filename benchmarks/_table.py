"""The figures of several runners as one Markdown table."""

import statistics
from collections.abc import Mapping, Sequence


def table(results: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Median (lowest–highest) per figure and runner; with two runners also the second's median over the first's."""
    names = list(dict.fromkeys(name for figures in results.values() for name in figures))
    ratio = len(results) == 2
    rows = [["figure", *results, *(["ratio"] if ratio else [])]]
    for name in names:
        columns = [figures.get(name, ()) for figures in results.values()]
        rows.append([name, *map(cell, columns), *([_ratio(*columns)] if ratio else [])])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table; the first is its head."""
    rows = [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def cell(values: Sequence[float]) -> str:
    """Median (lowest–highest)."""
    if not values:
        return "none"
    return f"{_number(statistics.median(values))} ({_number(min(values))}–{_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3f}"


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if not ours or not theirs:
        return ""
    return f"{statistics.median(theirs) / statistics.median(ours):.1f}"
