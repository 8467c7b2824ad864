"""Measures an optimizer step: our online driver against plain TRL (GRPO) and trl 1.12's PPOTrainer, in turns.

python benchmarks/training.py [--only grpo|ppo] [--repeats 5] [--clock wall|cpu] [--json FILE]

Each side is a process with one thread; PPO's peer runs in an environment of its own, made once under the cache folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

from _ppo_peer import NAME, NoPeer
from _ppo_peer import python as peer_python
from _table import aligned, cell
from _train_task import SHAPES, STEPS
from _watch import environment

HERE = Path(__file__).resolve().parent
RANK, RATE = 32, 1e-3
WARM = 3  # steps of each turn that are not counted
ROWS = 64  # of a PPO batch, as in GRPO's 8 questions of 8 samples
BATCHES = {1: (120, 24), 4: (60, 24)}  # passes over a batch -> batches of ours and of the peer: 10 s or more of each
MOMENTS = (2, 5, 10)  # seconds of training after which P(right answer) is compared
GOOD = 0.95

Figures = dict[str, list[tuple[float, ...]]]  # name -> (ours, theirs) of each turn


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="sia-training-") as folder:
        _call([sys.executable, str(HERE / "_train_task.py"), folder])
        grpo = {} if args.only == "ppo" else _grpo(folder, args.repeats, args.clock)
        ppo = {} if args.only == "grpo" else _ppo(folder, args.repeats, args.clock)
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    print(f"\n{where}; {packages}; {args.clock} time; median of {args.repeats} turns (lowest–highest)")
    for name, figures in (("plain TRL", grpo), (NAME, ppo)):
        if figures:
            print(f"\n{_table(figures, name)}")
    if args.json:
        report = {"machine": where, "packages": packages, "clock": args.clock, "grpo": grpo, "ppo": ppo}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


class Worker:
    """A trainer that stands by in a process of its own."""

    def __init__(self, python: str, script: str, log: Path) -> None:
        self._log = log.open("ab")
        command = [python, str(HERE / script)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(command, **pipes, env=_environment(), text=True)

    def __call__(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"a trainer ended early; its last words:\n{Path(self._log.name).read_text()[-2000:]}")
        return json.loads(answer)

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def _grpo(folder: str, repeats: int, clock: str) -> Figures:
    """The same recorded rollouts for both: what is timed is all that a step does but sampling."""
    figures: Figures = defaultdict(list)
    ours = Worker(sys.executable, "_train_ours.py", Path(folder, "ours.log"))
    theirs = Worker(sys.executable, "_train_trl.py", Path(folder, "trl.log"))
    for turn in range(repeats + 1):
        for shape in SHAPES:
            print(f"GRPO, {shape}: {f'turn {turn} of {repeats}' if turn else 'warm-up'}", flush=True)
            order = {"what": "grpo", "folder": folder, "shape": shape, "steps": STEPS, "rank": RANK, "rate": RATE}
            sides = [worker(**order) for worker in _turned(turn, ours, theirs)]
            if turn:
                _add(figures, f"GRPO, {shape}", _turned(turn, *sides), clock)
    ours.end()
    theirs.end()
    return dict(figures)


def _ppo(folder: str, repeats: int, clock: str) -> Figures:
    """Let each side sample its own rollouts with `generate`; prompts, reward, batch, rank and rate are the same."""
    figures: Figures = defaultdict(list)
    try:
        theirs = Worker(peer_python(), "_train_ppo.py", Path(folder, "peer.log"))
    except NoPeer as error:
        print(f"{error}; PPO is not compared")
        return {}
    ours = Worker(sys.executable, "_train_ours.py", Path(folder, "ours.log"))
    for turn in range(repeats + 1):
        for passes, (our_batches, their_batches) in BATCHES.items():
            print(f"PPO, passes {passes}: {f'turn {turn} of {repeats}' if turn else 'warm-up'}", flush=True)
            order = {"what": "ppo", "folder": folder, "rows": ROWS, "rank": RANK, "rate": RATE, "epochs": passes}
            sizes = _turned(turn, our_batches, their_batches) if turn else (5, 5)
            workers = _turned(turn, ours, theirs)
            runs = zip(workers, sizes, strict=True)
            sides = [worker(**order, seed=turn, batches=batches) for worker, batches in runs]
            if turn:
                name = f"PPO, {passes} pass{'es' if passes > 1 else ''} over a batch"
                ordered = _turned(turn, *sides)
                _add(figures, name, ordered, clock)
                _learned(figures, name, ordered, clock)
    ours.end()
    theirs.end()
    return dict(figures)


def _turned(turn: int, first: Any, second: Any) -> tuple[Any, Any]:
    """Alternate which side begins."""
    return (first, second) if turn % 2 == 0 else (second, first)


def _add(figures: Figures, name: str, sides: Sequence[Mapping[str, Any]], clock: str) -> None:
    means = [sum(side[clock][WARM:]) / len(side[clock][WARM:]) for side in sides]
    figures[f"{name}: a batch (ms)"].append(tuple(1000 * mean for mean in means))
    rates = [side["tokens"] / mean for side, mean in zip(sides, means, strict=True)]
    figures[f"{name}: completion tokens a second"].append(tuple(rates))


def _learned(figures: Figures, name: str, sides: Sequence[Mapping[str, Any]], clock: str) -> None:
    for moment in MOMENTS:
        right = tuple(_right(side, clock, moment) for side in sides)
        figures[f"{name}: P(right answer) after {moment} s"].append(right)


def _right(side: Mapping[str, Any], clock: str, moment: float) -> float:
    """After the last batch that was done by then; 0 before the first, which is lower than it was."""
    done = [right for at, right in zip(accumulate(side[clock]), side["right"], strict=True) if at <= moment]
    return done[-1] if done else 0.0


def _table(figures: Figures, peer: str) -> str:
    rows = [["figure", "sia-runner", peer, "theirs / ours"]]
    for name, pairs in figures.items():
        ours, theirs = zip(*pairs, strict=True)
        ratio = "" if "P(" in name else cell([other / value for value, other in pairs])
        rows.append([name, cell(ours), cell(theirs), ratio])
    return aligned(rows)


def _environment() -> dict[str, str]:
    """One thread unless the caller says otherwise, and our repository for those who import it."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return {
        **environment(),
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": str(HERE.parent),
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }


def _call(command: list[str]) -> None:
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["grpo", "ppo"], help="one of the two comparisons")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each side (5)")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: where the machine is shared (wall)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single value there")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    return args


if __name__ == "__main__":
    main()
