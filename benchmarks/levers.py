"""Any task with one frozen policy: the harness lever alone, with each of the six algorithms, and controls.

python benchmarks/levers.py TASK [--seeds 0 1 2 3 4] [--arms SIA-H ppo …] [--set KEY=VALUE …] [--out runs/levers_TASK]

Every arm is a run of the product in OUT/seed_<s>/<arm>. Finished arms are not run again, cut ones are resumed. Two
seeds go side by side, one numeric thread each. Prints a table, and writes it as table.md and levers.json in OUT, beside
answers.jsonl: how each arm answered each test question. `--also` adds the arms of such a file from another machine.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from _levers_arms import ARMS, HARNESS, Experiment, arms_of, overrides
from _levers_table import HEADER, Results, Row, cells, from_lines, markdown, read, rows, to_json, to_lines

from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment
from sia_runner.store.run_directory import read_json, write_json, write_text

HERE = Path(__file__).resolve().parent
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> int:
    args = _arguments()
    grpo = ["task=" + args.task, "target_agent=policy", "trainer=grpo", *args.set]
    composed = compose_overrides(grpo)
    if composed is None:
        return 2
    config = check_experiment(composed)
    if not config.task.metric.higher_is_better:
        print(f"task={args.task}: {config.task.metric.name} is better where it is lower; the table reads scores only")
        return 2
    experiment = _experiment(args, config.trainer)
    args.out.mkdir(parents=True, exist_ok=True)
    if not _is_same(args.out / "experiment.json", experiment):
        return 2
    # The others go on from the harnesses of the first.
    arms = [HARNESS, *(arm for arm in arms_of(config.task.metric, args.arms) if arm != HARNESS)]
    with ThreadPoolExecutor(args.beside) as pool:
        codes = list(pool.map(partial(_seed, experiment, args.out.resolve(), arms), args.seeds))
    results = read(args.out, args.seeds)
    origin = {"experiment": asdict(experiment), "base_sha256": _bases(args.out)}
    write_text(args.out / "answers.jsonl", to_lines(results, origin))
    if not _is_merged(results, origin, args.also):
        return 2
    table = rows(results)
    if table:
        _report(args.out, experiment, table, args.seeds)
    return max(codes)


def _is_merged(results: Results, origin: dict[str, Any], files: Sequence[Path]) -> bool:
    """Add what is missing here and was measured elsewhere; say so where the arms could not be compared."""
    for file in files:
        other, more = from_lines(file.read_text(encoding="utf-8"))
        if other != json.loads(json.dumps(origin)):
            print(f"{file} holds arms with other settings or of another policy: {other}", file=sys.stderr)
            return False
        for arm, by_seed in more.items():
            results[arm] = dict(sorted({**by_seed, **results[arm]}.items()))
    return True


def _bases(out: Path) -> list[str]:
    return sorted({read_json(lock)["policy"]["sha256"] for lock in out.glob("seed_*/*/lock.json")})


def _experiment(args: argparse.Namespace, grpo: Any) -> Experiment:
    steps, questions = args.steps or grpo.steps, args.questions or grpo.prompt_count
    amounts = steps, questions, args.samples or grpo.group_size
    return Experiment(args.task, tuple(args.set), *amounts, grpo.learning_rate, str(args.harnesses or ""))


def _is_same(file: Path, experiment: Experiment) -> bool:
    """Write the settings of the first call; say so if this one has others, whose arms could not be compared."""
    if not file.exists():
        write_json(file, asdict(experiment))
    stored = read_json(file)
    if stored == json.loads(json.dumps(asdict(experiment))):
        return True
    print(f"{file.parent} holds arms with other settings: {stored}; take another --out", file=sys.stderr)
    return False


def _seed(experiment: Experiment, out: Path, arms: Sequence[str], seed: int) -> int:
    folder = out / f"seed_{seed}"
    folder.mkdir(exist_ok=True)
    options = json.dumps({"experiment": asdict(experiment), "seed": seed, "folder": str(folder), "arms": arms})
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        command = [sys.executable, str(HERE / "_levers_seed.py"), options]
        code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **_THREADS}, check=False).returncode
    print(f"seed {seed}: {'done' if code == 0 else f'exit code {code}, see {folder}/log.txt'}", flush=True)
    return code


def _report(out: Path, experiment: Experiment, table: Sequence[Row], seeds: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table

    bases = _bases(out)
    output = Table(*HEADER, title=f"{experiment.task}, policy {' '.join(base[:12] for base in bases)}")
    for row in table:
        output.add_row(*cells(row))
    Console(width=None if sys.stdout.isatty() else 200).print(output)
    run = out / f"seed_{seeds[0]}" / HARNESS
    commands = {row.arm: overrides(experiment, row.arm, seeds[0], run) for row in table if row.arm in ARMS}
    report = {"base_sha256": bases, "seeds": list(seeds), "arms": to_json(table), "overrides": commands}
    write_json(out / "levers.json", report)
    write_text(out / "table.md", markdown(table) + "\n")
    if len(bases) > 1:
        print("the arms did not start from one policy: remove OUT and run again", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides, of every arm")
    amounts = parser.add_argument_group("amounts of every training; absent: those of trainer=grpo")
    amounts.add_argument("--steps", type=int)
    amounts.add_argument("--questions", type=int, help="of a step")
    amounts.add_argument("--samples", type=int, help="of a question")
    parser.add_argument("--harnesses", type=Path, metavar="DIR", help="gen_1 and gen_2 of SIA-H, instead of a search")
    parser.add_argument("--beside", type=int, default=2, help="seeds side by side")
    parser.add_argument("--also", nargs="*", default=[], type=Path, metavar="FILE", help="answers.jsonl of other runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.out = args.out or Path("runs") / f"levers_{args.task}"
    return args


if __name__ == "__main__":
    sys.exit(main())
