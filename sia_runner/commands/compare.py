"""The command `compare` shows runs side by side."""

import json
from argparse import Namespace

from rich.markup import escape
from rich.table import Table

from sia_runner.experiment.summary import format_score
from sia_runner.records import Json
from sia_runner.results.compare import compare_runs, read_finished_runs, runs_in_folders
from sia_runner.sweep.table import print_tables


def comparison_tables(comparison: Json) -> list[Table]:
    """Return the table of the runs and the table of the pairs."""
    first = comparison["runs"][0]
    runs = Table(
        title=f"{first['task']} · {first['metric']} · test set {comparison['test_sha256'][:12]}", title_justify="left"
    )
    for name in ("run", "mode", "algorithm"):
        runs.add_column(name, overflow="fold")
    for name in ("seed", "best"):
        runs.add_column(name, justify="right")
    for name in ("val [95% ci]", "test [95% ci]"):
        runs.add_column(name)
    for name in ("calls", "usd", "seconds"):
        runs.add_column(name, justify="right")
    for row in comparison["runs"]:
        usage, algorithms = row["usage"], ", ".join(dict.fromkeys(row["algorithms"])) or "–"
        usd = "not known" if usage["usd"] is None else f"{usage['usd']:.2f}"
        scores = (escape(format_score(row[split])) for split in ("val", "test"))
        cells = (escape(row["run"]), row["mode"], algorithms, str(row["seed"]), f"gen {row['best']}", *scores)
        runs.add_row(*cells, f"{usage['calls']:,}", usd, f"{row['seconds']:.0f}")
    return [runs, _pairs_table(comparison)]


def _pairs_table(comparison: Json) -> Table:
    pairs = Table(title="test, question by question", title_justify="left")
    for name in ("run", "against"):
        pairs.add_column(name, overflow="fold")
    for name in ("difference", "lost", "won", "McNemar p"):
        pairs.add_column(name, justify="right")
    for pair in comparison["pairs"]:
        gain, error = f"{pair['difference']:+.3f}", pair["standard_error"]
        cells = (gain, "–", "–", "the metric is no mean")
        if error is not None:
            cells = (f"{gain} ± {error:.3f}", str(pair["lost"]), str(pair["won"]), f"{pair['p_value']:.1e}")
        pairs.add_row(escape(pair["new"]), escape(pair["old"]), *cells)
    return pairs


def main(options: Namespace) -> int:
    """Compare the runs and print the tables; return the exit code."""
    comparison = compare_runs(read_finished_runs(runs_in_folders(options.folders)))
    if options.json:
        print(json.dumps(comparison, indent=1, allow_nan=False))
        return 0
    notes = (f"not equal: {escape(note)}" for note in comparison["notes"])
    print_tables(*comparison_tables(comparison), *notes)
    return 0
