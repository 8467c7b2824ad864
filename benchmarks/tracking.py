"""Measures what tracker=wandb costs: smoke runs in turn without it, with W&B offline, and with one that never answers.

python benchmarks/tracking.py [--turns 20] [--json FILE]
"""

import argparse
import ctypes
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from _table import aligned

import sia_runner

PLAIN = "none"
_NO_KEY = {"WANDB_API_KEY": "", "WANDB_MODE": "online", "NETRC": os.devnull}
_TRACKED = ["tracker=wandb", "tracker.wait=0"]  # the sender is left behind: neither its time nor its CPU is the run's
WALL, CPU, SENDER = "first start to last done (s)", "CPU of the run (s)", "CPU of sender and wandb, start included (s)"
BETWEEN = (
    "from verdicts to the next step, in all (s)"  # where the run speaks to its tracker, beside writing summary.json
)

Way = tuple[list[str], Mapping[str, str]]  # arguments and environment
Figures = dict[str, float]


def main() -> None:
    args = _arguments()
    _adopt()
    with tempfile.TemporaryDirectory(prefix="sia-tracking-", dir=args.folder) as folder, _silence() as nobody:
        figures = _measured(_ways(nobody), Path(folder), args.turns)
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    print(f"\n{where}; {args.turns} turns\n")
    print(aligned(_rows(figures)))
    if args.json:
        args.json.write_text(json.dumps({"machine": where, "figures": figures}, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=20, metavar="N", help="runs of each kind (20)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the runs (/tmp)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single value there")
    args = parser.parse_args()
    if args.turns < 2:
        parser.error("--turns must be at least 2")
    return args


def _ways(nobody: str) -> dict[str, Way]:
    """`none` twice: how far two kinds are apart that are the same."""
    return {
        PLAIN: ([f"tracker={PLAIN}"], _NO_KEY),
        "none, again": ([f"tracker={PLAIN}"], _NO_KEY),
        "wandb, offline": (_TRACKED, _NO_KEY),
        "wandb, dead endpoint": (_TRACKED, {**_NO_KEY, "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": nobody}),
    }


@contextmanager
def _silence() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _measured(ways: Mapping[str, Way], folder: Path, turns: int) -> dict[str, list[Figures]]:
    """Measure all kinds in each turn, in a new order, so that a busy minute hits all; a first turn only warms up."""
    by_way: dict[str, list[Figures]] = {name: [] for name in ways}
    order = random.Random(0)
    for turn in range(turns + 1):
        for name in order.sample(sorted(ways), len(ways)):
            figures = _run(
                ways[name], folder / f"{turn}-{len(by_way[name])}-{name.replace(', ', '-').replace(' ', '-')}"
            )
            print(f"turn {turn}: {name}: {figures}", flush=True)
            if turn:
                by_way[name].append(figures)
    return by_way


def _run(way: Way, run: Path) -> Figures:
    args, env = way
    command = [sys.executable, "-m", "sia_runner", "task=smoke", f"hydra.run.dir={run}", *args]
    path = str(Path(sia_runner.__file__).parents[1])
    process = subprocess.Popen(
        command, env={**os.environ, **env, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {**_spans(run / "journal.jsonl"), CPU: used.ru_utime + used.ru_stime, SENDER: _left_behind()}


def _left_behind() -> float:
    """CPU seconds of what the run did not wait for, when it has ended: its orphans are ours (_adopt)."""
    seconds = 0.0
    while True:
        try:
            _, _, used = os.wait3(0)
        except ChildProcessError:
            return seconds
        seconds += used.ru_utime + used.ru_stime


def _adopt() -> None:
    """prctl(PR_SET_CHILD_SUBREAPER): processes whose parent has ended become children of this one."""
    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _spans(journal: Path) -> Figures:
    """Return the times that the journal recorded."""
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    steps = [
        (e["event"], e["step"], datetime.fromisoformat(e["at"])) for e in entries if e["event"] in ("start", "done")
    ]
    gaps = [
        (began - judged).total_seconds()
        for (event, step, judged), (_, _, began) in pairwise(steps)
        if event == "done" and step.endswith("/accept")
    ]
    return {WALL: (steps[-1][2] - steps[0][2]).total_seconds(), BETWEEN: sum(gaps)}


def _rows(figures: Mapping[str, list[Figures]]) -> list[list[str]]:
    rows = [["figure", *figures]]
    for figure, reference in ((WALL, WALL), (CPU, CPU), (BETWEEN, WALL), (SENDER, None)):
        medians = [statistics.median(turn[figure] for turn in figures[name]) for name in figures]
        rows.append([figure, *(f"{median:.3f}" for median in medians)])
        if reference:
            title = (
                "… more than none (%)" if reference == figure else "… more than none (% of first start to last done)"
            )
            rows.append([title, *(_more(figures, name, figure, reference) for name in figures)])
    return rows


def _more(figures: Mapping[str, list[Figures]], name: str, figure: str, reference: str) -> str:
    """Median of the differences within a turn, in percent of `whole`, with its 95% interval (bootstrap)."""
    if name == PLAIN:
        return ""
    pairs = zip(figures[name], figures[PLAIN], strict=True)
    more = [100 * (tracked[figure] - plain[figure]) / plain[reference] for tracked, plain in pairs]
    draw = random.Random(0)
    again = sorted(statistics.median(draw.choices(more, k=len(more))) for _ in range(4000))
    return f"{statistics.median(more):+.2f} ({again[100]:+.2f} to {again[3899]:+.2f})"


if __name__ == "__main__":
    main()
