"""The groups of conf/, their choices, and the purpose of each.

It reads only the first lines of the YAML files and imports neither Hydra nor pydantic.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sia_runner.system import bundled_folder


def group_choices(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return group -> choice -> its first comment line; later folders add choices."""
    by_group: dict[str, dict[str, str]] = {}
    for folder in folders:
        for path in sorted([*folder.glob("*/*.yaml"), *folder.glob("compute/site/*.yaml")]):
            # shared by other choices, or a table: not a choice itself
            if path.stem.startswith("_") or path.parent.name == "prices":
                continue
            with path.open(encoding="utf-8") as stream:
                first = next((line for line in stream if not line.startswith("# @package")), "")
            group = by_group.setdefault(path.parent.relative_to(folder).as_posix(), {})
            group.setdefault(path.stem, first.lstrip("# ").rstrip() if first.startswith("#") else "")
    return by_group


def split_config_dirs(args: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Return the bundled conf/ with the folders that --config-dir (or -cd) adds, and all other arguments."""
    folders, others = [bundled_folder("conf")], list[str]()
    remaining = iter(args)
    for arg in remaining:
        name, equals, value = arg.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else next(remaining, ".")))
        else:
            others.append(arg)
    return folders, others
