"""Which gain survives an equal budget? Improved runs and, for each, both control arms; one table for each arm.

    python benchmarks/equal_budget.py --out runs/equal --arms sia_h,sia_wh --seeds 0,1,2,3,4 task=lawbench max_gen=4
    python benchmarks/equal_budget.py --out runs/equal --arms plain --seeds 0,1 task=smoke max_gen=2

An arm is an experiment of conf/experiment that improves, or `plain` for the overrides alone. Further overrides hold for
all runs. It does what is missing: called again with the same arguments, it goes on where it was cut.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def sia_runner(*args: str) -> int:
    """Run the command line in a process of its own; return its exit code."""
    print(f"$ python -m sia_runner {' '.join(args)}", flush=True)
    return subprocess.run([sys.executable, "-m", "sia_runner", *args], check=False).returncode


def sweep(folder: Path, overrides: Sequence[str]) -> None:
    """Start the sweep, or go on with it; end the program where it was refused or cut."""
    begun = (folder / "plan.json").is_file()
    code = sia_runner(f"resume={folder}") if begun else sia_runner("-m", *overrides, f"hydra.sweep.dir={folder}")
    if code not in (0, 3, 4):  # 3 and 4: a run without a score, which the table shows
        sys.exit(f"{folder}: exit code {code}")


def equal_budget_table(out: Path, arm: str, seeds: str, overrides: Sequence[str]) -> str:
    """Carry out one arm with its controls; return the table in Markdown, which lies beside the report."""
    # the controls train nothing, but their harnesses call the same policy
    own, target = ([], []) if arm == "plain" else ([f"+experiment={arm}"], ["target_agent=policy"])
    improved, controls = out / arm, out / f"{arm}-control"
    rest = [item for item in overrides if not item.startswith("max_gen=")]  # their budget ends the controls
    sweep(improved, [*own, *overrides, f"seed={seeds}"])
    arms = ["+experiment=control", "control.arm=votes,random", f"control.like={improved}"]
    sweep(controls, [*arms, *target, *rest, f"seed={seeds}"])
    page = out / f"{arm}.html"
    if code := sia_runner("report", str(improved), str(controls), f"out={page}"):
        sys.exit(code)
    return page.with_suffix(".md").read_text(encoding="utf-8")


def main() -> None:
    """Print the table of each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for runs and reports")
    parser.add_argument("--arms", default="sia_h", help="experiments with commas, or plain; default: sia_h")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="with commas")
    parser.add_argument("overrides", nargs="*", help="of all runs, as task=lawbench")
    args = parser.parse_intermixed_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tables = [equal_budget_table(out, arm, args.seeds, args.overrides) for arm in args.arms.split(",")]
    print("\n".join(tables))


if __name__ == "__main__":
    main()
