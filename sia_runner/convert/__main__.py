"""``python -m sia_runner.convert FILE.json ... [--out DIR]``: sia-agent's profiles and providers as YAML of ours.

A provider becomes DIR/provider/<id>.yaml; a profile DIR/experiment/<id>.yaml with a provider of its own, which is used
with --config-dir DIR +experiment=<id>. A folder stands for all JSON files in it. Without --out, DIR is sia_agent.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.compose.refusals import refusals
from sia_runner.convert.sia_profiles import File, hosted, proposer, provider_of, read, reference
from sia_runner.rundir import RunError, write_text

ENTRY = "target_agent.py"


def convert(paths: Sequence[Path], out: Path) -> list[str]:
    """Write the YAML files and return a line on how to use each. Raises RunError."""
    files = [read(path) for path in _files(paths)]
    lines = [_write_provider(file, out) for file in files if file.is_provider]
    for file in files:
        if not file.is_provider:
            provider = provider_of(file, files)
            lines.append((_write_proposer if "agent_impl" in file.data else _write_target)(file, provider, out))
    return lines


def _files(paths: Sequence[Path]) -> list[Path]:
    files = [file for path in paths for file in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    if not files:
        raise RunError(f"no JSON file in {', '.join(map(str, paths))}")
    return files


def _write_provider(file: File, out: Path) -> str:
    _write_hosted(file, file.name, None, out)
    return f"{file.path.name}: --config-dir {out} provider={file.name} provider.model=…"


def _write_proposer(file: File, provider: File, out: Path) -> str:
    own = _write_own_provider(file, provider, out)
    choices = {"/meta_agent": proposer(file, provider), "/provider@meta_agent.provider": own}
    return _write_experiment(file, choices, {}, out)


def _write_target(file: File, provider: File, out: Path) -> str:
    own = _write_own_provider(file, provider, out)
    choices = {"/target_agent": "model", "/provider@target_agent.provider": own}
    start = _copy_reference(file, out)
    return _write_experiment(file, choices, {"task": {"reference": str(start)}} if start else {}, out)


def _copy_reference(file: File, out: Path) -> Path | None:
    """Copy the program that the profile starts from, under the file name of a harness. Only task=custom takes one."""
    program = reference(file)
    if program is None:
        return None
    source, entry = program
    dest = out.resolve() / "reference" / file.name
    dest.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        if entry != ENTRY and (source / ENTRY).exists():
            raise RunError(f"{file.path}: agent_reference starts with {entry}, but {source} has a {ENTRY} besides")
        shutil.copytree(source, dest, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copyfile(source if source.is_file() else source / entry, dest / ENTRY)
    return dest


def _write_own_provider(file: File, provider: File, out: Path) -> str:
    """Write the provider with the profile's model; return its name, which no sia-agent provider has."""
    name = f"{file.name}-provider"
    _write_hosted(provider, name, file.data["model"], out)
    return name


def _write_hosted(provider: File, name: str, model: str | None, out: Path) -> None:
    _write_yaml(out / "provider" / f"{name}.yaml", provider.title, hosted(provider, name, model))


def _write_experiment(file: File, choices: dict[str, str], more: dict[str, Any], out: Path) -> str:
    defaults = [{f"override {group}": choice} for group, choice in choices.items()]
    _write_yaml(out / "experiment" / f"{file.name}.yaml", file.title, {"defaults": defaults, **more}, package=True)
    only = " (task=custom: it brings a harness to start from)" if more else ""
    return f"{file.path.name}: --config-dir {out} +experiment={file.name}{only}"


def _write_yaml(path: Path, title: str, data: dict[str, Any], package: bool = False) -> None:
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    head = "# @package _global_\n" if package else ""
    line = " ".join(title.split())
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    write_text(path, f"{head}# {line}, converted from sia-agent.\n{text}")


def main() -> int:
    """Convert the files; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sia_runner.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, default=Path("sia_agent"), metavar="DIR")
    args = parser.parse_args()
    with refusals() as outcome:
        print("\n".join(convert(args.files, args.out)))
        outcome.code = 0
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
