"""A container image made of the running Python, for machines that reach no image registry.

    image_from_python.py REQUIREMENTS | docker import - NAME

Writes a tar archive to standard output: this interpreter with its standard library at its own path, the distributions
that REQUIREMENTS names and what those need (as far as they are installed here), a few programs, the system libraries
that all of it links to.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PROGRAMS = ("sh", "cat", "ls", "sleep", "id", "env", "tr", "mount")
FOLDERS = ("proc", "sys", "dev", "tmp", "run", "etc", "usr/bin", "usr/local/bin", "var")
NOT_NEEDED = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "lib2to3"}


def distributions(wanted: list[str]) -> dict[str, metadata.Distribution]:
    """Everything that `wanted` needs, by normalised name; extras of their own are not followed."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(line) for line in wanted]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            print(f"not in this Python, so not in the image: {name}", file=sys.stderr)
            continue
        waiting += [Requirement(line) for line in found[name].requires or ()]
    return found


def files_of(found: dict[str, metadata.Distribution]) -> dict[str, Path]:
    """Path in the image -> file here."""
    base, library = Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))
    packages = library / "site-packages"
    files = {
        str(file): file
        for file in library.rglob("*")
        if not NOT_NEEDED & set(file.relative_to(library).parts) and not file.name.endswith(".a")
    }
    program = Path(os.path.realpath(sys.executable))
    files |= {str(file): file for file in (program, *(base / "lib").glob("libpython*.so*"))}
    for distribution in found.values():
        for file in distribution.files or ():
            here = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and "tests" not in file.parts and here.is_file():
                files[str(packages / file)] = here
    for name in PROGRAMS:
        here = shutil.which(name)
        if here:
            files[f"/usr/bin/{name}"] = Path(os.path.realpath(here))
    return {name: file for name, file in files.items() if file.is_file()}


def libraries_of(files: dict[str, Path]) -> dict[str, Path]:
    """The system's shared objects that these need, at the paths where the loader finds them here."""
    binaries = [str(file) for file in files.values() if ".so" in file.name or os.access(file, os.X_OK)]
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    needed = set(re.findall(r"(?:=> |\t)(/(?:usr/)?lib\S+) \(0x", said))  # wheels bring their other ones themselves
    return {path: Path(os.path.realpath(path)) for path in needed}


def write(files: dict[str, Path], archive: tarfile.TarFile) -> None:
    for folder in sorted({*FOLDERS, *(str(parent)[1:] for name in files for parent in Path(name).parents)} - {""}):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
        archive.addfile(entry)
    for name, file in sorted(files.items()):
        entry = archive.gettarinfo(file, arcname=name)
        entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", file.stat().st_size  # no hard links to others
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if os.access(file, os.X_OK) else 0o644
        with file.open("rb") as content:
            archive.addfile(entry, content)
    links = {"bin": "usr/bin"}
    links |= {f"usr/local/bin/{name}": os.path.realpath(sys.executable) for name in ("python3", "python")}
    for name, target in links.items():
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        archive.addfile(entry)


def main() -> None:
    lines = Path(sys.argv[1]).read_text().splitlines()
    files = files_of(distributions([line for line in lines if line and not line.startswith("#")]))
    files |= libraries_of(files)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        write(files, archive)


if __name__ == "__main__":
    main()
