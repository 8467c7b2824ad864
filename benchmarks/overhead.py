"""Measures the cost of a runner: ours and sia-agent side by side, on the same task with the same instant proposals.

python benchmarks/overhead.py [--only ours|peer] [--against CHECKOUT] [--repeats 5] [--output-mib 1024] [--json FILE]
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

from _figures import Runner, measure
from _ours import Ours
from _peer import NoPeer, Peer
from _table import table


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="sia-overhead-") as folder:
        results = measure(_runners(args.only, args.against), Path(folder), args.repeats, args.output_mib)
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    print(f"\n{where}; median of {args.repeats} runs (lowest-highest), warm\n")
    print(table(results))
    if args.json:
        report = {"machine": where, "repeats": args.repeats, "output_mib": args.output_mib, "figures": results}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["ours", "peer"], help="measure one side")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another version of ours in place of the peer")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs per figure (5)")
    parser.add_argument("--output-mib", type=int, default=1024, metavar="N", help="what a target agent prints (1024)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single value there")
    args = parser.parse_args()
    if args.repeats < 1 or args.output_mib < 1:
        parser.error("--repeats and --output-mib must be at least 1")
    return args


def _runners(only: str | None, against: Path | None) -> list[Runner]:
    if against:
        return [Ours(), Ours(against)]
    runners: list[Runner] = [] if only == "peer" else [Ours()]
    if only != "ours":
        try:
            runners.append(Peer())
        except NoPeer as error:
            if only == "peer":
                raise SystemExit(str(error)) from error
            print(f"{error}; only our side is measured")
    return runners


if __name__ == "__main__":
    main()
