"""Measures the policy of this process on SmolLM2-135M: sampling beside `generate`, a GRPO step beside plain TRL.

python benchmarks/smollm2.py [--batches 1 16 64] [--turns 3] [--dtype auto|float32|bfloat16] [--clock wall|cpu]
                             [--threads 1] [--json FILE]      (needs the extra `training`)

The prompts are those of task=sentences after three examples; each turn has other questions and nothing cached. A step's
rows are what we sampled, the same for both: forward, loss, backward, Adam on a LoRA of rank 32. TRL accumulates the
gradients of 16 rows at a time.
"""

import argparse
import csv
import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from _table import aligned, cell
from training import RANK, RATE, Worker

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

SAMPLES = 8  # of a question in a batch of rollouts, where it has so many rows
WARM, STEPS = 1, 1  # steps of a turn that are not timed, and that are
ROWS_AT_ONCE = 16  # of TRL, which needs more than 19 GB for 64; ours divides a step by the length of its rows
Figures = dict[str, list[tuple[float, float]]]


def main() -> None:
    args = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    from sia_runner.policy.base_model import base_folder, weights_dtype

    dtype = str(weights_dtype(args.dtype, "cpu")).removeprefix("torch.")
    folder = str(base_folder("smollm2"))
    with tempfile.TemporaryDirectory(prefix="sia-smollm2-") as scratch:
        chats = _chats(Path(scratch))
        figures, samples = _sampling(args, folder, dtype, chats, Path(scratch))
        if not args.sampling_only:
            figures |= _training(args, folder, dtype, samples, Path(scratch))
    rows = [["figure", "sia-runner", "plain", "ours / plain"]]
    for name, pairs in figures.items():
        mine, theirs = zip(*pairs, strict=True)
        rows.append([name, cell(mine), cell(theirs), cell([own / other for own, other in pairs])])
    print(f"\n{dtype}, {args.threads} threads, {args.clock} time, {args.turns} turns\n\n{aligned(rows)}")
    if args.json:
        args.json.write_text(json.dumps({"dtype": dtype, "clock": args.clock, "figures": figures}, indent=1) + "\n")


def _chats(scratch: Path) -> list[list[dict[str, str]]]:
    """Return the conversations that the recipe few_shot makes of the task's questions."""
    from importlib import import_module

    from sia_runner.system import bundled_folder
    from sia_runner.tasks.data import run_script

    task = bundled_folder("tasks") / "sentences"
    run_script(task / "make_data.py", scratch)
    sys.path.insert(0, str(task / "with_model" / "recipes"))
    conversation = import_module("few_shot").conversation
    with (scratch / "labelled.csv").open(encoding="utf-8", newline="") as stream:
        return [conversation(row["request"]) for row in csv.DictReader(stream)]


def _sampling(
    args: argparse.Namespace, folder: str, dtype: str, chats: list[Any], scratch: Path
) -> tuple[Figures, dict[int, list[Any]]]:
    figures: Figures = defaultdict(list)
    samples: dict[int, list[Any]] = {}
    mine = Worker(sys.executable, "_sample_smollm2.py", scratch / "ours.log")
    theirs = Worker(sys.executable, "_sample_smollm2.py", scratch / "plain.log")
    for turn in range(args.turns + 1):
        for size in args.batches:
            print(f"sampling, batch {size}: {f'turn {turn} of {args.turns}' if turn else 'warm-up'}", flush=True)
            first = (turn * max(args.batches)) % (len(chats) - size)
            order = {"folder": folder, "dtype": dtype, "chats": chats[first : first + size], "seed": turn}
            sides = {}
            for what, worker in [("ours", mine), ("plain", theirs)][:: 1 if turn % 2 else -1]:
                sides[what] = worker(what=what, **order)
            samples[size] = sides["ours"]["samples"]
            if turn:
                rates = tuple(sides[what]["tokens"] / sides[what][args.clock] for what in ("ours", "plain"))
                figures[f"sampling, batch {size}: completion tokens a second"].append(rates)
    mine.end()
    theirs.end()
    return dict(figures), samples


def _training(
    args: argparse.Namespace, folder: str, dtype: str, samples: dict[int, list[Any]], scratch: Path
) -> Figures:
    figures: Figures = defaultdict(list)
    (scratch / "model").symlink_to(folder)
    steps = WARM + STEPS
    shapes = {f"{size} rows": [_groups(rows)] * steps for size, rows in samples.items() if size >= 2 * SAMPLES}
    (scratch / "rollouts.json").write_text(json.dumps(shapes))
    mine = Worker(sys.executable, "_train_ours.py", scratch / "ours.log")
    theirs = Worker(sys.executable, "_train_trl.py", scratch / "trl.log")
    for turn in range(1, args.turns + 1):
        for shape in shapes:
            print(f"training, {shape}: turn {turn} of {args.turns}", flush=True)
            order = {"folder": str(scratch), "shape": shape, "steps": steps, "rank": RANK, "rate": RATE, "dtype": dtype}
            own = {"ours": {}, "plain": {"rows_at_once": ROWS_AT_ONCE}}
            sides = {}
            for what, worker in [("ours", mine), ("plain", theirs)][:: 1 if turn % 2 else -1]:
                sides[what] = worker(what="grpo", **order, **own[what])
            seconds = {what: sum(side[args.clock][WARM:]) / STEPS for what, side in sides.items()}
            rates = tuple(sides[what]["tokens"] / seconds[what] for what in ("ours", "plain"))
            figures[f"training, {shape}: completion tokens a second"].append(rates)
    mine.end()
    theirs.end()
    return dict(figures)


def _groups(rows: list[Any]) -> list[Any]:
    """Return groups of rollouts with one prompt each, completions of one length and rewards that differ.

    Short completions are repeated, which costs a step the same as other tokens.
    """
    length = min(24, max(len(completion) for _, completion, _ in rows))
    groups = []
    for start in range(0, len(rows), SAMPLES):
        chunk = rows[start : start + SAMPLES]
        prompt = chunk[0][0]
        groups.append(
            [
                (prompt, (completion * length)[:length], (logprobs * length)[:length], float(at % 2))
                for at, (_, completion, logprobs) in enumerate(chunk)
            ]
        )
    return sorted(groups, key=lambda group: -len(group[0][0]))  # the first one's length bounds all of them


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64], metavar="N", help="rows (1 16 64)")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="of each side (3)")
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the weights (auto)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch, in each process (1)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: where the machine is shared")
    parser.add_argument("--sampling-only", action="store_true", help="no training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single value there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
