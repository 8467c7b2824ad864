"""The count of rows that W&B has, from its own files: it holds after a kill of everything at any moment."""

import json
import subprocess
import sys
from pathlib import Path

_TIMEOUT = 120.0  # seconds to read one file


def rows_taken(folder: Path, run_id: str) -> int:
    """Return how many rows are in the files that earlier processes left below `folder`."""
    files = sorted(folder.glob(f"wandb/*run-*/run-{run_id}.wandb"))
    return max((_rows(file) for file in files), default=0)


def _rows(file: Path) -> int:
    """Count rows with wandb's own reader, which stops where a file was cut."""
    command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", str(file), "--json"]
    rows = 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        for line in process.stdout or ():
            if b'"type":"history"' in line:
                rows = max(rows, 1 + int(json.loads(line)["history"]["step"].get("num", 0)))
        process.wait(_TIMEOUT)
    return rows
