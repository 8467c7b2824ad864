"""Build the documentation as a site in build/site: the pages of this folder and all that they link to, a reference of
the Python interfaces, and a gallery of three runs, which are made first unless they are there.

    python docs/make_site.py [--gallery DIR]      needs the extra `docs`; DIR: the runs' folder, default build/gallery

A warning of the build (a link to nowhere, a page in no menu, a docstring that cannot be read) is exit code 1."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES, RUNS = ROOT / "build" / "pages", ROOT / "build" / "gallery"
FENCE_WITH_FILE = re.compile(r"^```(\w+) ([^\n`]+)$", re.MULTILINE)  # as tests read them; the site has it as a title
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")

# What a package of one's own implements or reads, as docs/extending.md leads to it.
INTERFACES = {
    "Records": ["sia_runner.records", "sia_runner.stage_results"],
    "A task and its verifier": [
        "sia_runner.tasks.protocol",
        "sia_runner.tasks.worker.Verifier",
        "sia_runner.tasks.submission_sandbox",
        "sia_runner.tasks.verifiers.submission",
    ],
    "A proposer": ["sia_runner.proposers.protocol"],
    "A training algorithm": [
        "sia_runner.training.protocol",
        "sia_runner.training.algorithms.base",
        "sia_runner.training.batch",
    ],
    "A policy": ["sia_runner.wire.policy", "sia_runner.wire.learning"],
    "An accept rule": ["sia_runner.selection.scoring"],
    "A sandbox": ["sia_runner.sandbox.protocol", "sia_runner.sandbox.auto"],
    "Where steps run": ["sia_runner.compute.protocol"],
    "A tracker": ["sia_runner.tracking.protocol"],
    "A column of the report": ["sia_runner.results.report.runs.ReportedRun"],
}
# Runs that take seconds to a minute on a laptop, without a key and without a GPU.
GALLERY = {
    "smoke": ("Programs of recipes on made-up reviews: SIA-H, no model.", ["task=smoke", "max_gen=4"]),
    "lawbench": (
        "Charges of Chinese criminal cases: SIA-H, no model, two generations.",
        ["task=lawbench", "max_gen=2"],
    ),
    "arithmetic": (
        "A tiny policy that learns additions from rewards: SIA-W+H with GRPO.",
        ["task=arithmetic", "trainer=grpo", "trainer.steps=8", "max_gen=2"],
    ),
}


def main() -> int:
    """Lay the pages out and build them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=Path, default=RUNS, metavar="DIR")
    options = parser.parse_args()
    shutil.rmtree(PAGES, ignore_errors=True)
    lay_out(PAGES)
    (PAGES / "api.md").write_text(api_page(), encoding="utf-8")
    write_gallery(PAGES / "gallery", options.gallery.resolve())
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # it is an advertisement
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def lay_out(pages: Path) -> None:
    """Copy README.md, the pages of docs/, and every file that a copied page links to, at the same relative paths."""
    todo = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    copied: set[Path] = set()
    for path in todo:
        if path in copied:
            continue
        copied.add(path)
        target = pages / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            target.write_text(FENCE_WITH_FILE.sub(r'```\1 title="\2"', text), encoding="utf-8")
            todo += linked_files(path)
        else:
            shutil.copyfile(path, target)
    from jupytext import read, write

    write(read(ROOT / "docs" / "tutorial.md"), pages / "docs" / "tutorial.ipynb")


def linked_files(page: Path) -> Iterator[Path]:
    """Yield the files of this repository that a page links to."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if path.is_file() and path.is_relative_to(ROOT):
            yield path


def api_page() -> str:
    """Return the page of the Python interfaces; mkdocstrings fills it from the docstrings."""
    lines = ["# Python interfaces", "", "What a package of your own implements: [extending.md](docs/extending.md)."]
    for title, names in INTERFACES.items():
        lines += ["", f"## {title}", *(f"\n::: {name}" for name in names)]
    return "\n".join(lines) + "\n"


def write_gallery(folder: Path, runs: Path) -> None:
    """Make the runs that are missing, and write their reports and a page that leads to them."""
    folder.mkdir(parents=True)
    lines = ["# Gallery", "", "Three whole runs, each made by the command beside it when this site was built.", ""]
    lines += [
        "| run | command | val of the best | test | test of the first harness |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (about, overrides) in GALLERY.items():
        run = runs / name
        summary = run / "summary.json"
        if not (summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "completed"):
            sia_runner(*overrides, f"hydra.run.dir={run}")
        with tempfile.TemporaryDirectory() as temporary:  # beside the page are its tables, which need none of their own
            sia_runner("report", str(run), f"out={temporary}/report.html")
            shutil.copyfile(f"{temporary}/report.html", folder / f"{name}.html")
        check_made_by(run, overrides)
        best = json.loads(summary.read_text(encoding="utf-8"))["best"]
        scores = [score_text(best[key]) for key in ("val", "test", "baseline_test")]
        command = f"`python -m sia_runner {' '.join(overrides)}`"
        lines.append(f"| [{name}]({name}.html): {about} | {command} | {' | '.join(scores)} |")
    lines += ["", "Each row is one seed: what a gain is worth, [docs/report.md](../docs/report.md) and"]
    lines += ["[docs/control.md](../docs/control.md) say. The pages are those of the command `report`.", ""]
    (folder / "index.md").write_text("\n".join(lines), encoding="utf-8")


def check_made_by(run: Path, overrides: Sequence[str]) -> None:
    """End with exit code 1 where a run that was there has other settings than its command beside it says."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    for override in overrides:
        key, _, value = override.partition("=")
        setting = reduce(lambda section, part: section[part], key.split("."), config)
        setting = setting["name"] if isinstance(setting, dict) else setting
        if str(setting) != value:
            raise SystemExit(
                f"{run} has {key}={setting}; the gallery's has {override}: name another folder, --gallery DIR"
            )


def sia_runner(*arguments: str) -> None:
    """Run a command. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "sia_runner", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def score_text(score: dict | None) -> str:
    """Return a score with its interval."""
    if score is None:
        return "none"
    low, high = score["ci95"]
    return f"{score['value']:.3f} [{low:.3f}, {high:.3f}] (n={score['n']})"


if __name__ == "__main__":
    raise SystemExit(main())
