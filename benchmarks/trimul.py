"""The seven-shape table of task=trimul_gpu on this machine's GPU: PyTorch eager, torch.compile, the fused recipe.

python benchmarks/trimul.py [--kernel FILE ...] [--variants 8] [--flush]

Every kernel runs in a process of its own, without a sandbox (they are ours), and is judged as a submission is: right on
the 18 cases, then timed on fresh data, checked in each repeat. `--variants`: so many settings of the fused recipe
are tried on three repeats each, and the best of them takes part in the table.
"""

import argparse
import platform
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _table import aligned

from sia_runner.proposers import recipe_space
from sia_runner.system import bundled_folder
from sia_runner.tasks.submission_sandbox import ProgramEndedError, SubmissionSandbox
from sia_runner.tasks.worker import load_module

HERE = Path(__file__).resolve().parent
TASK = bundled_folder("tasks") / "trimul"
VERIFIER: Any = load_module(TASK / "verifier.py")
JUDGE: Any = sys.modules["judge"]
CASES: Any = sys.modules["cases"]
PLAIN = SubmissionSandbox([sys.executable, str(HERE / "_no_sandbox.py")])
# A program for each shape of the table and of the 18: beyond the limit PyTorch would go on without compiling.
COMPILE = """

import torch._dynamo

torch._dynamo.config.recompile_limit = 64
custom_kernel = torch.compile(custom_kernel, dynamic=False)
"""
SEED = 20_251  # these kernels are ours: nobody is surprised by their inputs
HOURS = 3600.0

Timings = dict[str, list[Any]]


def main() -> None:
    args = _arguments()
    if not _has_gpu():
        print(
            "refused: no CUDA GPU here; task=trimul scores kernels without one, by correctness and work",
            file=sys.stderr,
        )
        raise SystemExit(2)
    kernels = {"eager": source(TASK / "reference" / "target_agent.py")}
    kernels["torch.compile"] = kernels["eager"] + COMPILE
    kernels["fused"] = best_variant(args.variants) if args.variants else source(TASK / "recipes" / "fused.py")
    kernels |= {path.stem: path.read_text(encoding="utf-8") for path in args.kernel}
    timings = {name: measured(text, "cuda", CASES.TIMED, CASES.CORRECT, args.flush) for name, text in kernels.items()}
    print(_machine())
    print(f"command: python benchmarks/trimul.py {' '.join(sys.argv[1:])}\n")
    print(aligned(rows(timings, CASES.TIMED)))
    for name, cases in timings.items():
        for fault in {timing.fault for timing in cases if timing.fault}:
            print(f"{name}: {fault}")


def source(path: Path) -> str:
    """Return the kernel file that a harness of the task writes."""
    return path.read_text(encoding="utf-8").partition("\n# submission.py\n")[2]


def measured(text: str, device: str, timed: Sequence[Any], correct: Sequence[Any], flush: bool) -> list[Any]:
    """A Timing for each case of `timed`; all with a fault where the kernel is not right on `correct`."""
    slacks = _slacks(device, timed)
    try:
        with PLAIN.run(VERIFIER._files(text.encode()), "candidate.py", HOURS) as inside:
            judge = JUDGE.Judge(inside, device, [*timed, *correct])
            try:
                for case in correct:
                    if fault := judge.run(case, SEED).fault:
                        return [_failed(f"{case.name}: {fault}")] * len(timed)
                return [judge.time(case, SEED, slacks[case], flush=flush) for case in timed]
            finally:
                judge.close()
    except (JUDGE.RefusedError, ProgramEndedError) as error:
        return [_failed(str(error))] * len(timed)


def _failed(why: str) -> Any:
    return JUDGE.Timing(why, float("inf"), 0.0, 0, believed=False)


def _slacks(device: str, cases: Sequence[Any]) -> Mapping[Any, float]:
    """Measure the judge's `slack` (see there) around a kernel of ours that does nothing."""
    with PLAIN.run(VERIFIER._files(VERIFIER._NOTHING.encode()), "candidate.py", HOURS) as inside:
        judge = JUDGE.Judge(inside, device, list(cases))
        try:
            return {case: JUDGE.slack([judge.run(case, seed) for seed in range(12)][2:]) for case in cases}
        finally:
            judge.close()


def best_variant(count: int) -> str:
    """The fused recipe with the settings that take least time on three repeats of each shape."""
    space = recipe_space.load_space(TASK / "recipes")
    assert space is not None
    recipe, dice = space.recipes["fused"], random.Random(0)
    some = [recipe.default(), *dice.sample(list(recipe.variants()), count)]
    JUDGE.REPEATS, before = 3, JUDGE.REPEATS
    seconds: dict[str, float] = {}
    for variant in some:
        text = space.program(variant).partition("\n# submission.py\n")[2]
        timings = measured(text, "cuda", CASES.TIMED, (), flush=False)
        seconds[text] = JUDGE.geometric_mean([timing.mean for timing in timings])
        print(f"{seconds[text]:9.1f} us  {dict(variant.constants)}", file=sys.stderr)
    JUDGE.REPEATS = before
    return min(seconds, key=lambda text: seconds[text])


def rows(timings: Timings, cases: Sequence[Any]) -> list[list[str]]:
    """Return the rows of the table: one per shape, then the geometric mean."""
    head = ["microseconds: N, batch, dim, distribution", *timings]
    body = [
        [case.name, *(_cell(timing_rows[index]) for timing_rows in timings.values())]
        for index, case in enumerate(cases)
    ]
    means = [JUDGE.geometric_mean([timing.mean for timing in timing_rows]) for timing_rows in timings.values()]
    return [head, *body, ["geometric mean", *(f"{mean:,.0f}" for mean in means)]]


def _cell(timing: Any) -> str:
    if timing.fault:
        return "wrong"
    note = "" if timing.believed else " (by our clock)"
    return f"{timing.mean:,.0f} ± {timing.error:,.0f} ({timing.repeats}){note}"


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _machine() -> str:
    import torch
    import triton

    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return (
        f"\n{gpu[0] if gpu else torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}, "
        f"triton {triton.__version__}, Python {platform.python_version()}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", type=Path, nargs="*", default=[], help="further submission.py files")
    parser.add_argument("--variants", type=int, default=0, help="settings of the fused recipe to try first")
    parser.add_argument("--flush", action="store_true", help="empty the L2 cache before each repeat")
    return parser.parse_args()


if __name__ == "__main__":
    main()
