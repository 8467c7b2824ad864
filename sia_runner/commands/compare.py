"""The command `compare` shows runs side by side."""

import json
from argparse import Namespace

from rich.markup import escape
from rich.table import Table

from sia_runner.experiment.summary import format_score
from sia_runner.records import Json
from sia_runner.results.compare import compare_runs, read_finished_runs, runs_in_folders
from sia_runner.store.directions import directed_words
from sia_runner.sweep.table import fold, print_tables, right


def _tables(comparison: Json) -> list[Table]:
    first, intervals = comparison["runs"][0], ("val [95% ci]", "test [95% ci]")
    columns = [*fold("run", "mode", "algorithm"), *right("seed", "best"), *intervals, *right("calls", "usd", "seconds")]
    title = f"{first['task']} · {first['metric']} · test set {comparison['test_sha256'][:12]}"
    runs = Table(*columns, title=title, title_justify="left")
    for row in comparison["runs"]:
        usage, algorithms = row["usage"], ", ".join(dict.fromkeys(row["algorithms"])) or "–"
        usd = "not known" if usage["usd"] is None else f"{usage['usd']:.2f}"
        scores = (escape(format_score(row[split])) for split in ("val", "test"))
        name = escape(" · ".join(filter(None, [row["run"], directed_words(row["directed"])])))
        cells = (name, row["mode"], algorithms, str(row["seed"]), f"gen {row['best']}", *scores)
        runs.add_row(*cells, f"{usage['calls']:,}", usd, f"{row['seconds']:.0f}")
    columns = [*fold("run", "against"), *right("difference", "lost", "won", "McNemar p")]
    pairs = Table(*columns, title="test, question by question", title_justify="left")
    for pair in comparison["pairs"]:
        gain, error = f"{pair['difference']:+.3f}", pair["standard_error"]
        cells = (gain, "–", "–", "the metric is no mean")
        if error is not None:
            cells = (f"{gain} ± {error:.3f}", str(pair["lost"]), str(pair["won"]), f"{pair['p_value']:.1e}")
        pairs.add_row(escape(pair["new"]), escape(pair["old"]), *cells)
    return [runs, pairs]


def main(options: Namespace) -> int:
    """Compare the runs and print the tables; return the exit code."""
    comparison = compare_runs(read_finished_runs(runs_in_folders(options.folders)))
    if options.json:
        print(json.dumps(comparison, indent=1, allow_nan=False))
        return 0
    notes = (f"not equal: {escape(note)}" for note in comparison["notes"])
    print_tables(*_tables(comparison), *notes)
    return 0
