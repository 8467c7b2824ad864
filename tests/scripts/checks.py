"""What several end-to-end tests ask of a finished run."""

from typing import Any

from tests.conftest import Cli


def essence(cli: Cli) -> Any:
    """Everything about the verdicts, nothing about time and money."""
    keep = ("n", "lever", "status", "reason", "val", "outcomes")
    return [{key: g[key] for key in keep} for g in cli.summary["generations"]], cli.summary["best"]
