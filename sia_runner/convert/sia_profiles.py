"""Reading sia-agent's provider and profile files (JSON) as choices of our configuration groups.

provider   {provider_id, name, client_kind: anthropic|openai|google, base_url, api_key_env, litellm_prefix?}
profile    {profile_id, name, model, provider_id, agent_impl}            of its meta-agent
           {profile_id, name, model, provider_id, agent_reference}       of its target agent
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sia_runner.ground.resources import bundled
from sia_runner.rundir import RunError

Json = dict[str, Any]
AGENTS = {"claude": "claude_code", "openhands": "openhands", "pydantic-ai": "pydantic_ai"}
_KINDS = {"anthropic": "anthropic", "openai": "openai", "google": "gemini"}  # client_kind -> litellm's name
_ADDRESSES = {
    "anthropic": "https://api.anthropic.com/v1",
    "openai": "https://api.openai.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",  # there it speaks OpenAI's protocol
}
_ALIASES = {
    "haiku": "claude-haiku-4-5-20251001"
}  # names of Claude's CLI, not of the API; this one sia-agent itself uses
_PROVIDER, _PROFILE = {"provider_id", "client_kind", "api_key_env"}, {"profile_id", "model", "provider_id"}


@dataclass(frozen=True, slots=True)
class File:
    """A JSON file of sia-agent: a provider, or a profile."""

    path: Path
    data: Json

    @property
    def is_provider(self) -> bool:
        """True for a provider, False for a profile."""
        return "profile_id" not in self.data

    @property
    def id(self) -> str:
        """The id that sia-agent knows the file by."""
        return str(self.data["provider_id" if self.is_provider else "profile_id"])

    @property
    def name(self) -> str:
        """The name of the resulting YAML file, with a prefix where we ship one of the same name, which would win."""
        ours = bundled("conf") / ("provider" if self.is_provider else "experiment") / f"{self.id}.yaml"
        return f"sia_{self.id}" if ours.is_file() else self.id

    @property
    def title(self) -> str:
        """The title for people."""
        return str(self.data.get("name") or self.id)


def read(path: Path) -> File:
    """Read a provider or profile. Raises RunError with one line."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: no JSON object, so no provider or profile of sia-agent")
    missing = sorted((_PROFILE if "profile_id" in data else _PROVIDER) - data.keys())
    if missing:
        raise RunError(f"{path}: no provider or profile of sia-agent: it has no {', '.join(missing)}")
    file = File(path, data)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", file.id):
        raise RunError(f"{path}: {file.id!r} cannot be a file's name (letters, digits, - _ .)")
    return file


def provider_of(profile: File, files: Sequence[File]) -> File:
    """Find the provider of a profile in the places where sia-agent looks for it.

    These are the `files`, the profile's folder, the user's folder and the package of sia-agent. Raises RunError.
    """
    provider_id = profile.data["provider_id"]
    for file in files:
        if file.is_provider and file.id == provider_id:
            return file
    folders = [profile.path.parent, profile.path.parent.parent / "providers"]
    folders.append(Path(os.environ.get("SIA_PROVIDERS_DIR", "providers")))
    package = find_spec("sia")
    folders += [
        Path(location) / "defaults" / "providers" for location in (package and package.submodule_search_locations) or []
    ]
    path = next(
        (folder / f"{provider_id}.json" for folder in folders if (folder / f"{provider_id}.json").is_file()), None
    )
    if path is None:
        raise RunError(
            f"{profile.path}: provider_id={provider_id}: no {provider_id}.json given, "
            f"nor in {', '.join(map(str, folders))}"
        )
    return read(path)


def hosted(provider: File, name: str, model: str | None) -> Json:
    """Return the keys of conf/provider/*.yaml for a provider. Raises RunError."""
    data = provider.data
    kind = data["client_kind"]
    if kind not in _KINDS:
        raise RunError(f"{provider.path}: client_kind={kind}: allowed: {', '.join(_KINDS)}")
    address = (data.get("base_url") or _ADDRESSES[kind]).rstrip("/")
    if kind == "anthropic" and not address.endswith("/v1"):
        address += "/v1"  # its SDK adds that to the address
    return {
        "name": name,
        "kind": "hosted",
        "api": "anthropic" if kind == "anthropic" else "openai",
        "litellm": data.get("litellm_prefix") or _shipped_provider(provider.id).get("litellm") or _KINDS[kind],
        "model": _model(kind, model) if model else "???",
        "base_url": address,
        "key": data["api_key_env"],
    }


def proposer(profile: File, provider: File) -> str:
    """Return our choice of the group meta_agent. Raises RunError."""
    implementation = profile.data["agent_impl"]
    if implementation not in AGENTS:
        raise RunError(f"{profile.path}: agent_impl={implementation}: allowed: {', '.join(AGENTS)}")
    if implementation == "claude" and provider.data["client_kind"] != "anthropic":
        raise RunError(f"{profile.path}: agent_impl=claude talks to Anthropic only, not to {provider.id}")
    return AGENTS[implementation]


def reference(profile: File) -> tuple[Path, str] | None:
    """Return (file or folder, entry file name) of a target profile's program; None for the task's own."""
    declared = profile.data.get("agent_reference")
    if declared is None or declared == "default":
        return None
    if not isinstance(declared, Mapping) or "source" not in declared:
        raise RunError(f'{profile.path}: agent_reference must be "default" or an object with a "source"')
    source = (profile.path.parent / str(declared["source"])).resolve()
    entry = source.name if source.is_file() else str(declared.get("entrypoint") or "reference_target_agent.py")
    if not (source.is_file() or (source / entry).is_file()):
        raise RunError(f"{profile.path}: agent_reference: no {entry} in {source}")
    return source, entry


def _model(kind: str, model: str) -> str:
    """Return the model's name at the endpoint."""
    if kind == "google":
        return model.removeprefix("gemini/")
    return _ALIASES.get(model, model) if kind == "anthropic" else model


def _shipped_provider(name: str) -> Json:
    """Return our own YAML of a provider of that name; empty if we ship none."""
    import yaml

    path = bundled("conf") / "provider" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
