"""The command `convert` writes sia-agent's profiles and providers as YAML of ours."""

import json
import os
import re
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

from sia_runner.records import Json
from sia_runner.store.run_directory import RunDirectoryError, write_text
from sia_runner.system import bundled_folder

_HARNESS_ENTRY = "target_agent.py"
_META_AGENTS = {"claude": "claude_code", "openhands": "openhands", "pydantic-ai": "pydantic_ai"}
_KINDS = {"anthropic": "anthropic", "openai": "openai", "google": "gemini"}  # client_kind -> litellm's name
_ADDRESSES = {
    "anthropic": "https://api.anthropic.com/v1",
    "openai": "https://api.openai.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",  # there it speaks OpenAI's protocol
}
_ALIASES = {"haiku": "claude-haiku-4-5-20251001"}  # names of Claude's CLI, not of the API; sia-agent uses this one
_PROVIDER, _PROFILE = {"provider_id", "client_kind", "api_key_env"}, {"profile_id", "model", "provider_id"}


@dataclass(frozen=True, slots=True)
class ProfileFile:
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
        ours = bundled_folder("conf") / ("provider" if self.is_provider else "experiment") / f"{self.id}.yaml"
        return f"sia_{self.id}" if ours.is_file() else self.id


def _read_profile(path: Path) -> ProfileFile:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise RunDirectoryError(f"{path}: no JSON object, so no provider or profile of sia-agent")
    missing = sorted((_PROFILE if "profile_id" in data else _PROVIDER) - data.keys())
    if missing:
        raise RunDirectoryError(f"{path}: no provider or profile of sia-agent: it has no {', '.join(missing)}")
    file = ProfileFile(path, data)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", file.id):
        raise RunDirectoryError(f"{path}: {file.id!r} cannot be a file's name (letters, digits, - _ .)")
    return file


def _find_provider(profile: ProfileFile, files: Sequence[ProfileFile]) -> ProfileFile:
    """Find the provider of a profile where sia-agent looks: `files`, the folders beside, the user's, the package's."""
    provider_id = profile.data["provider_id"]
    for file in files:
        if file.is_provider and file.id == provider_id:
            return file
    folders = [profile.path.parent, profile.path.parent.parent / "providers"]
    folders.append(Path(os.environ.get("SIA_PROVIDERS_DIR", "providers")))
    package = find_spec("sia")
    packages = (package and package.submodule_search_locations) or []
    folders += [Path(location) / "defaults" / "providers" for location in packages]
    for folder in folders:
        if (folder / f"{provider_id}.json").is_file():
            return _read_profile(folder / f"{provider_id}.json")
    problem = f"no {provider_id}.json given, nor in {', '.join(map(str, folders))}"
    raise RunDirectoryError(f"{profile.path}: provider_id={provider_id}: {problem}")


def main(options: Namespace) -> int:
    """Convert the files; return the exit code."""
    print("\n".join(convert_files(options.files, options.out)))
    return 0


def convert_files(paths: Sequence[Path], out: Path) -> list[str]:
    """Write the YAML files and return a line on how to use each. Raises RunError."""
    json_files = [file for path in paths for file in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    if not json_files:
        raise RunDirectoryError(f"no JSON file in {', '.join(map(str, paths))}")
    files = [_read_profile(path) for path in json_files]
    lines: list[str] = []
    for file in files:
        if file.is_provider:
            _write_provider(file, file.name, None, out)
            lines.append(f"{file.path.name}: --config-dir {out} provider={file.name} provider.model=…")
    return lines + [_write_experiment(file, _find_provider(file, files), out) for file in files if not file.is_provider]


def _write_provider(provider: ProfileFile, name: str, model: str | None, out: Path) -> None:
    data, kind = provider.data, provider.data["client_kind"]
    if kind not in _KINDS:
        raise RunDirectoryError(f"{provider.path}: client_kind={kind}: allowed: {', '.join(_KINDS)}")
    address = (data.get("base_url") or _ADDRESSES[kind]).rstrip("/")
    if kind == "anthropic":
        model = _ALIASES.get(model or "", model)
        address = address if address.endswith("/v1") else f"{address}/v1"  # its SDK adds that to the address
    elif kind == "google" and model:
        model = model.removeprefix("gemini/")
    ours = bundled_folder("conf") / "provider" / f"{provider.id}.yaml"
    shipped: Json = yaml.safe_load(ours.read_text(encoding="utf-8")) if ours.is_file() else {}
    keys = {
        "name": name,
        "kind": "hosted",
        "api": "anthropic" if kind == "anthropic" else "openai",
        "litellm": data.get("litellm_prefix") or shipped.get("litellm") or _KINDS[kind],
        "model": model or "???",
        "base_url": address,
        "key": data["api_key_env"],
    }
    _write_yaml(out / "provider" / f"{name}.yaml", provider, keys)


def _write_experiment(file: ProfileFile, provider: ProfileFile, out: Path) -> str:
    """Write the experiment of a profile, with a provider of its own; return the line on how to use it."""
    own, start = f"{file.name}-provider", None  # no provider of sia-agent has that name
    _write_provider(provider, own, file.data["model"], out)
    if "agent_impl" in file.data:
        choices = {"/meta_agent": _meta_agent_choice(file, provider), "/provider@meta_agent.provider": own}
    else:
        choices = {"/target_agent": "model", "/provider@target_agent.provider": own}
        start = _copy_reference(file, out)
    data: Json = {"defaults": [{f"override {group}": choice} for group, choice in choices.items()]}
    data |= {"task": {"reference": str(start)}} if start else {}
    _write_yaml(out / "experiment" / f"{file.name}.yaml", file, data, head="# @package _global_\n")
    only = " (task=custom: it brings a harness to start from)" if start else ""
    return f"{file.path.name}: --config-dir {out} +experiment={file.name}{only}"


def _meta_agent_choice(profile: ProfileFile, provider: ProfileFile) -> str:
    implementation = profile.data["agent_impl"]
    if implementation not in _META_AGENTS:
        raise RunDirectoryError(f"{profile.path}: agent_impl={implementation}: allowed: {', '.join(_META_AGENTS)}")
    if implementation == "claude" and provider.data["client_kind"] != "anthropic":
        raise RunDirectoryError(f"{profile.path}: agent_impl=claude talks to Anthropic only, not to {provider.id}")
    return _META_AGENTS[implementation]


def _copy_reference(profile: ProfileFile, out: Path) -> Path | None:
    """Copy the program that a target profile starts from, under the file name of a harness; None for the task's own."""
    declared = profile.data.get("agent_reference")
    if declared is None or declared == "default":
        return None
    if not isinstance(declared, Mapping) or "source" not in declared:
        raise RunDirectoryError(f'{profile.path}: agent_reference must be "default" or an object with a "source"')
    source = (profile.path.parent / str(declared["source"])).resolve()
    entry = source.name if source.is_file() else str(declared.get("entrypoint") or "reference_target_agent.py")
    program = source if source.is_file() else source / entry
    if not program.is_file():
        raise RunDirectoryError(f"{profile.path}: agent_reference: no {entry} in {source}")
    dest = out.resolve() / "reference" / profile.name
    dest.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        if entry != _HARNESS_ENTRY and (source / _HARNESS_ENTRY).exists():
            problem = f"agent_reference starts with {entry}, but {source} has a {_HARNESS_ENTRY} besides"
            raise RunDirectoryError(f"{profile.path}: {problem}")
        shutil.copytree(source, dest, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copyfile(program, dest / _HARNESS_ENTRY)
    return dest


def _write_yaml(path: Path, file: ProfileFile, data: Json, head: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    title = " ".join(str(file.data.get("name") or file.id).split())
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    write_text(path, f"{head}# {title}, converted from sia-agent.\n{text}")
