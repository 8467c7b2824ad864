"""Readers of W&B's own files of a run, through wandb's own reader."""

import base64
import hashlib
import json
import subprocess
import sys


def records(run):
    """Return all records of all files of a run directory, in order: [(file, record)]."""
    result = []
    for file in sorted(run.glob("tracking/wandb/*run-*/run-*.wandb")):
        command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", str(file), "--json"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        result += [(file, json.loads(line)) for line in output.stdout.splitlines()]
    return result


def rows(run):
    """The history: one dict per row, in the order in which they were written."""
    return [record["history"]["item"] for _, record in records(run) if record["type"] == "history"]


def verdicts(run):
    return [row for row in rows(run) if "generation" in row]


def curves(run):
    return [row for row in rows(run) if "train/step" in row]


def versions(run):
    """Harnesses and adapters: (type, metadata, checksum of each file by its name)."""
    result = [record["artifact"] for _, record in records(run) if record["type"] == "artifact"]
    return [
        (
            item["type"],
            json.loads(item["metadata"]),
            {part["path"]: part["digest"] for part in item["manifest"]["contents"]},
        )
        for item in result
        if item["type"] in ("harness", "adapter")
    ]


def checksums(folder):
    """Return the checksums of files as W&B writes them, to compare with `versions`."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {name: base64.b64encode(hashlib.md5(file.read_bytes()).digest()).decode() for name, file in files.items()}


def table(run, name):
    """Columns and rows of the newest table of that name."""
    files = sorted(
        run.glob(f"tracking/wandb/*run-*/files/media/table/{name}_summary_*.json"), key=lambda f: f.stat().st_mtime
    )
    read = json.loads(files[-1].read_text())
    return read["columns"], read["data"]
