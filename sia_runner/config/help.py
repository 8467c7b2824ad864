"""The page of `python -m sia_runner --help` lists the groups, their choices, and the purpose of each.

It reads only the first lines of the YAML files and imports neither Hydra nor pydantic."""

from collections.abc import Sequence
from pathlib import Path

from sia_runner.system import bundled_folder

_HEAD = """\
SIA Runner: self-improving-AI experiments as configurations.

usage: python -m sia_runner [group=choice ...] [key=value ...] [-m] [--cfg job] [--config-dir DIR]
       python -m sia_runner resume=DIR [max_gen=N] [budget.*=...] [compute.*=...]      a run, or a whole sweep

  python -m sia_runner                        the smoke task: a whole experiment in seconds
  python -m sia_runner task=lawbench          SIA-H on LawBench; no key, no GPU
  python -m sia_runner task=gpqa meta_agent=llm provider=anthropic      language models; a key in the environment
  python -m sia_runner -m task=smoke seed=0,1,2      a sweep: one run per seed
  python -m sia_runner +sweeps=levers hydra/launcher=submitit_slurm      a declared sweep (sweeps/*.yaml) as SLURM jobs
  python -m sia_runner web [runs_dir=runs]    the live dashboard: all runs, also while they go on; web=true: of one run
  python -m sia_runner sweep SWEEP_DIR        the table of a sweep, also while it runs
  python -m sia_runner verify RUN_DIR         recompute every score, find any edit
  python -m sia_runner approve RUN_DIR [--reject "why"]     answer the plan that a run with approve=… waits with
  python -m sia_runner adapters RUN_DIR       the trained adapters: list, show, check, merge, export
  python -m sia_runner compare RUN_DIR ...    runs side by side on the same test questions, or a whole sweep
  python -m sia_runner report RUN_DIR ...     SIA-H against SIA-W+H as one page, with tables for a paper
  python -m sia_runner export RUN_DIR [DIR]   the best harness as a folder that runs without us
  python -m sia_runner sync RUN_DIR ...       send to W&B what it does not have of a run, or of a whole sweep
  python -m sia_runner prepare task=lawbench  fetch a task's data now
  python -m sia_runner tasks list|new|check   the tasks there are, one of your own, whether it can be cheated
  python -m sia_runner convert FILE.json ...  sia-agent's profiles and providers as choices of ours
  python -m sia_runner prefetch [key=value ...]      fetch all that a run would download: for nodes without network
  python -m sia_runner doctor [key=value ...] check keys, endpoint, sandbox and data of a configuration
  python -m sia_runner estimate [key=value ...]      what a run may cost, before it spends

Groups and choices (the first comment line of each file in conf/<group>/):
"""
_TAIL = """
--cfg job prints the composed configuration with every key; --hydra-help lists Hydra's own options.
Exit codes: 0 scored and tested · 2 refused, nothing started · 3 no candidate could be scored ·
4 budget spent before a tested result · 130 interrupted, resumable.
"""


def group_choices(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return group -> choice -> its first comment line; later folders add choices."""
    by_group: dict[str, dict[str, str]] = {}
    for folder in folders:
        for path in sorted([*folder.glob("*/*.yaml"), *folder.glob("compute/site/*.yaml")]):
            if path.stem.startswith("_"):  # shared by other choices, not a choice itself
                continue
            with path.open(encoding="utf-8") as stream:
                first = next((line for line in stream if not line.startswith("# @package")), "")
            group = by_group.setdefault(path.parent.relative_to(folder).as_posix(), {})
            group.setdefault(path.stem, first.lstrip("# ").rstrip() if first.startswith("#") else "")
    return by_group


def help_page(args: Sequence[str]) -> str:
    """Return the help page for these command line arguments."""
    lines = [_HEAD]
    for group, descriptions in sorted(group_choices(config_folders(args)).items()):
        lines.append(f"  {group}")
        lines += [f"    {choice:<20} {description}" for choice, description in descriptions.items()]
    return "\n".join([*lines, _TAIL])


def config_folders(args: Sequence[str]) -> list[Path]:
    """Return the bundled conf/ and the folders that --config-dir (or -cd) adds."""
    folders = [bundled_folder("conf")]
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else args[index + 1] if index + 1 < len(args) else "."))
    return folders
