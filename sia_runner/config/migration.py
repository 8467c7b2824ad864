"""Names of keys and classes that earlier versions used, and the migration of stored configurations.

A run directory keeps the names of the version that wrote it, and its files are hashed, so they are never rewritten:
whoever reads a stored configuration migrates it in memory. A user who gives an old name is told the new one.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from sia_runner.records import Json, as_object

_ALGORITHM = {
    "samples": "group_size",
    "questions": "prompts_per_step",  # of offline algorithms: prompts
    "kl": "kl_coefficient",
    "collapse": "early_stopping",
}
_EARLY_STOPPING = {
    "kl": "max_kl",
    "entropy": "min_entropy",
    "zero_groups": "max_uniform_groups",
    "length": "max_length_ratio",
}
_PROVIDER = {"patience": "max_wait_seconds"}
# section, in today's names -> old key -> new key; `*` stands for any one step
RENAMED_KEYS: Mapping[str, Mapping[str, str]] = {
    "trainer": _ALGORITHM,
    "trainer.early_stopping": _EARLY_STOPPING,
    "trainer.algorithms.*": _ALGORITHM,
    "trainer.algorithms.*.early_stopping": _EARLY_STOPPING,
    "lever": {"latest": "latest_fraction", "probe": "probe_questions"},
    "evidence": {"failures": "max_failures", "kb": "max_kib"},
    "task": {
        "tiny_steps": "tiny_policy_steps",
        "said": "warmup_format",
        "questions_as": "questions_alias",
        "most_rows": "max_rows",
    },
    "task.data": {"about": "description_file"},
    "target_agent.policy": {"batch": "max_batch_size", "wait_ms": "batch_wait_ms"},
    "meta_agent": {"keep": "keep_fraction", "questions": "trial_questions"},
    "search": {"width": "proposals_per_generation", "in_flight": "parallel_candidates", "novelty": "novelty_weight"},
    "budget": {"reserve": "test_reserve"},
    "compute.resources.*": {"where": "run_in"},
    "provider": _PROVIDER,
    "meta_agent.provider": _PROVIDER,
    "target_agent.provider": _PROVIDER,
}
MOVED_CLASSES: Mapping[str, str] = {
    "sia_runner.tracking.nothing.Nothing": "sia_runner.tracking.local.Nothing",
    "sia_runner.tasks.mlebench.task.Mlebench": "sia_runner.tasks.mlebench_task.Mlebench",
    "sia_runner.agents.recipes.Recipes": "sia_runner.proposers.recipes.Recipes",
    "sia_runner.agents.replay.Replay": "sia_runner.proposers.replay.Replay",
    "sia_runner.agents.llm.proposer.Llm": "sia_runner.proposers.llm.Llm",
    "sia_runner.agents.guests.claude_code.ClaudeCode": "sia_runner.proposers.guests.ClaudeCode",
    "sia_runner.agents.guests.openhands.OpenHands": "sia_runner.proposers.guests.OpenHands",
    "sia_runner.agents.guests.pydantic_ai.PydanticAI": "sia_runner.proposers.guests.PydanticAI",
}
_SECTIONS = (*RENAMED_KEYS, "sandbox", "tracker")  # whose keys or classes have old names
_OFFLINE = ("dpo", "best_of_n")
_MAX_KEYS = 1000  # of a section; a stored file is not trusted, and aliases make a small one huge


def read_stored_config(path: Path) -> Json:
    """Return the configuration in a run's config.yaml, in today's names."""
    config = migrate(yaml.safe_load(path.read_text(encoding="utf-8")))
    tracker = as_object(as_object(config).get("tracker"))
    if tracker.get("_target_") == "sia_runner.tracking.wandb.Wandb":  # once accepted, though W&B refuses them
        for key, refused in (("project", r"[/\\#?%:]"), ("entity", r"[/\\#?%:]"), ("group", "(?!)")):
            if isinstance(name := tracker.get(key), str):
                tracker[key] = re.sub(refused, "-", name)[:128]
    return config


def migrate_algorithm(settings: Mapping[str, Any]) -> Json:
    """Return the stored settings of one algorithm, as in proposal.json and the journal, in today's names."""
    return migrate(dict(settings), ("trainer",))


def migrate_overrides(overrides: Iterable[str]) -> list[str]:
    """Return recorded overrides of the command line, like ``trainer.samples=4``, in today's names."""
    overrides = list(overrides)
    offline = any(override.removeprefix("trainer=") in _OFFLINE for override in overrides)
    composed = {"trainer": {"kind": "offline"}} if offline else {}
    migrated: list[str] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        name = key.lstrip("+~")
        migrated.append(key.removesuffix(name) + renamed_key(name, composed) + equals + value)
    return migrated


def renamed_key(key: str, composed: Mapping[str, Any] | None = None) -> str:
    """Return the dotted key in today's names. `composed`: the configuration that it is a key of, as far as known."""
    path: tuple[str, ...] = ()
    section = composed or {}
    for step in key.split("."):
        path = (*path, _renames(path, section).get(step, step))
        section = as_object(section.get(step))
    return ".".join(path)


def migrate(stored: Any, path: tuple[str, ...] = ()) -> Any:
    """Return a stored configuration, or its section at `path`, in today's names."""
    pattern, section = _pattern(path), as_object(stored)
    if not any(f"{key}.".startswith(pattern) for key in _SECTIONS) or not 0 < len(section) <= _MAX_KEYS:
        return stored
    renames, migrated = _renames(path, section), Json()
    for key, content in section.items():
        new = renames.get(key, key)
        name = key if new in section else new  # with both, the schema refuses the old one
        if key == "_target_":
            migrated[name] = MOVED_CLASSES.get(str(content), content)
        else:
            migrated[name] = migrate(content, (*path, str(name)))
    return migrated


def _pattern(path: tuple[str, ...]) -> str:
    """Return the section at `path` as RENAMED_KEYS spells it, with a dot at the end."""
    steps = ["*" if before in ("algorithms", "resources") else step for before, step in pairwise(("", *path))]
    return "".join(f"{step}." for step in steps)


def _renames(path: tuple[str, ...], section: Mapping[str, Any]) -> Mapping[str, str]:
    """Return old key -> new key of the section at `path`; a class of the user's own has its own keys."""
    if not str(section.get("_target_", "sia_runner.")).startswith("sia_runner."):
        return {}
    renames = RENAMED_KEYS.get(_pattern(path).removesuffix("."), {})
    if renames is _ALGORITHM and (section.get("kind") == "offline" or path[-1] in _OFFLINE):
        return {**renames, "questions": "prompts"}
    return renames
