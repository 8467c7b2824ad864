"""LawBench with one frozen tiny policy: the harness lever alone, with each of the six algorithms, and a control.

python benchmarks/lawbench_levers.py [--seeds 5] [--arms SIA-H ppo …] [--out runs/lawbench_levers]

Every arm is a run of the product in OUT/seed_<s>/<arm>. Finished arms are not run again, cut ones are resumed. Two
seeds go side by side, one numeric thread each. Prints a table, and writes it as table.md and levers.json in OUT.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _levers_arms import ARMS, HARNESS, overrides
from _levers_table import HEADER, Row, cells, markdown, read, rows, to_json

from sia_runner.store.run_directory import read_json, write_json, write_text

HERE = Path(__file__).resolve().parent
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> int:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    arms = [HARNESS, *(arm for arm in args.arms if arm != HARNESS)]  # the others go on from its harnesses
    with ThreadPoolExecutor(args.beside) as pool:
        codes = list(pool.map(lambda seed: _seed(seed, args.out.resolve(), arms), range(args.seeds)))
    table = rows(read(args.out, range(args.seeds)))
    if table:
        _report(args.out, table, range(args.seeds))
    return max(codes)


def _seed(seed: int, out: Path, arms: Sequence[str]) -> int:
    folder = out / f"seed_{seed}"
    folder.mkdir(exist_ok=True)
    options = json.dumps({"seed": seed, "folder": str(folder), "arms": arms})
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        command = [sys.executable, str(HERE / "_levers_seed.py"), options]
        code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **_THREADS}, check=False).returncode
    print(f"seed {seed}: {'done' if code == 0 else f'exit code {code}, see {folder}/log.txt'}", flush=True)
    return code


def _report(out: Path, table: Sequence[Row], seeds: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table

    bases = sorted({read_json(lock)["policy"]["sha256"] for lock in out.glob("seed_*/*/lock.json")})
    output = Table(*HEADER, title=f"LawBench, policy {' '.join(base[:12] for base in bases)}")
    for row in table:
        output.add_row(*cells(row))
    Console(width=None if sys.stdout.isatty() else 200).print(output)
    commands = {arm: overrides(arm, 0, out / "seed_0" / HARNESS) for arm in ARMS}
    report = {"base_sha256": bases, "seeds": list(seeds), "arms": to_json(table), "overrides": commands}
    write_json(out / "levers.json", report)
    write_text(out / "table.md", markdown(table) + "\n")
    if len(bases) > 1:
        print("the arms did not start from one policy: remove OUT and run again", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--beside", type=int, default=2, help="seeds side by side")
    parser.add_argument("--out", type=Path, default=Path("runs/lawbench_levers"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
