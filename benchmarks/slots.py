"""Measures how long evaluation slots are idle and what a candidate costs the driver: the pool against one job each.

python benchmarks/slots.py [--slurm PARTITION] [--candidates 200] [--seconds 2] [--slots 8] [--json FILE]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

from _slots_ways import Way, ways
from _table import aligned

Figures = dict[str, float]


def main() -> None:
    args = _arguments()
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="sia-slots-", dir=args.folder, ignore_cleanup_errors=True) as folder:
        for name, way in ways(args.slurm).items():
            results_folder = Path(folder) / str(len(results))
            results[name] = _measure(
                way, results_folder, args.candidates, args.seconds, args.slots, jobs=bool(args.slurm)
            )
            print(f"{name}: {results[name]}", flush=True)
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    location = f"SLURM partition {args.slurm}" if args.slurm else "processes of this machine"
    print(f"\n{where}; {args.candidates} candidates of {args.seconds:g} s in {args.slots} slots, {location}\n")
    print(aligned(_rows(results)))
    if args.json:
        args.json.write_text(json.dumps({"machine": where, "place": location, "figures": results}, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slurm", metavar="PARTITION", help="jobs of a SLURM cluster instead of local processes")
    parser.add_argument("--candidates", type=int, default=200, metavar="N", help="per way (200)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="each candidate sleeps so long (2)")
    parser.add_argument("--slots", type=int, default=8, metavar="K", help="candidates at work at once (8)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for spool and jobs; on SLURM a shared one (/tmp)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


def _measure(way: Way, folder: Path, count: int, seconds: float, slots: int, *, jobs: bool) -> Figures:
    folder.mkdir()
    before, began = _cpu(jobs), time.time()
    spans = way(folder, count, seconds, slots)
    finish = time.time()
    if len(spans) != count:
        raise SystemExit(f"{len(spans)} of {count} candidates were evaluated")
    busy = sum(end - start for start, end in spans)
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    return {
        "wall time (s)": finish - began,
        "until the first candidate runs (s)": first - began,
        "idle share of the slots (%)": 100 * (1 - busy / (slots * (finish - began))),
        "idle share from first to last candidate (%)": 100 * (1 - busy / (slots * (last - first))),
        "pause of a slot between two candidates, median (ms)": 1000 * statistics.median(_pauses(spans, slots)),
        "most at work at once": _most_at_once(spans),
        "CPU of the driver per candidate (ms)": 1000 * (_cpu(jobs) - before) / count,
    }


def _cpu(jobs: bool) -> float:
    """Seconds of this process; with `jobs` of sbatch and squeue too. Not of local workers, its children too."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if jobs else (resource.RUSAGE_SELF,)
    usages = [resource.getrusage(who) for who in whose]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _pauses(spans: list[tuple[float, float]], slots: int) -> list[float]:
    """Seconds: each candidate after the first ones took the slot that had been idle for the shortest time."""
    free, pauses = list[float](), list[float]()
    for start, end in sorted(spans):
        before = [finish for finish in free if finish <= start]
        if before and len(free) >= slots:
            pauses.append(start - max(before))
            free.remove(max(before))
        free.append(end)
    return pauses or [0.0]


def _most_at_once(spans: list[tuple[float, float]]) -> int:
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = highest = 0
    for _, change in events:
        running += change
        highest = max(highest, running)
    return highest


def _rows(results: dict[str, Figures]) -> list[list[str]]:
    names = list(next(iter(results.values())))
    return [["figure", *results], *([name, *(f"{of[name]:.1f}" for of in results.values())] for name in names)]


if __name__ == "__main__":
    main()
