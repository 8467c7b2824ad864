"""The published figures on a task: from the run's own configuration, or from the shipped one in older runs."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from sia_runner.ground.resources import bundled
from sia_runner.report.kept import Json, as_dict, as_text

FIGURES = ("initial", "prior", "sia_h", "sia_wh")


def declared(config: Mapping[str, Any]) -> Json:
    """Return the figures that a configuration declares, empty if there are none."""
    task = as_dict(config.get("task"))
    if "published" in task:
        return as_dict(task["published"])
    shipped = _shipped(as_text(task.get("name")))
    same = as_dict(task.get("data")).get("sha256") == as_dict(shipped.get("data")).get("sha256")
    return as_dict(shipped.get("published")) if same else {}


@cache
def _shipped(name: str) -> Json:
    path = bundled("conf") / "task" / f"{name}.yaml"
    if not re.fullmatch(r"\w{1,80}", name, re.ASCII) or not path.is_file():
        return {}
    return as_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
