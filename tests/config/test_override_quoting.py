"""Paths and values of any characters reach the configuration; a choice of a group is a name."""

import pytest

from sia_runner.__main__ import main
from sia_runner.config.composition import CompositionError, compose_overrides, quote_overrides
from tests.tasks.making import write_csv

FOLDER = 'Zoë\'s runs (v2), final=1 [x] {y} #~ "z"'


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / FOLDER
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_csv(folder / "d.csv", ("text", "desk"), [(f"text {n}", "ab"[n % 2]) for n in range(200)])
    assert main(["tasks", "new", "desk", "--csv", "d.csv", "--answer", "desk", "--licence", "mine"]) == 0
    return folder


@pytest.mark.parametrize("mark", [*"ë=()[]{}#~'\"&;!,", "\\'", " "])
def test_a_folder_with_any_character_may_be_named(tmp_path, mark):
    folder = tmp_path / f"a{mark}b"
    folder.mkdir()
    plain = compose_overrides(["task=custom", f"task.dir={folder}"])
    assert plain["task"]["dir"] == str(folder)


def test_sweeps_lists_and_quoted_values_stay_as_they_are(tmp_path):
    args = [
        "-m",
        "seed=0,1",
        "task.dir=a,b",
        "x=[a,b]",
        "y={a:1}",
        "z='a,b'",
        "+w=range(3)",
        "~tracker",
        "hydra.run.dir='é'",
    ]
    assert quote_overrides(args) == args


@pytest.mark.parametrize("override", ["tracker=false", "provider=null", "task=5", "task=nan"])
@pytest.mark.parametrize("command", [[], ["estimate"]])
def test_a_choice_that_is_no_name_is_refused_in_one_line(here, capsys, override, command):
    assert main([*command, override]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"refused: {override}: no such choice; allowed: ")


def test_a_run_folder_may_begin_with_a_tilde_and_keeps_its_interpolations(monkeypatch):
    monkeypatch.setenv("HOME", "/home/Zoë")
    args = ["hydra.run.dir=~/runs/${now:%Y}", "hydra.sweep.dir=a, b"]
    assert quote_overrides(args) == ["hydra.run.dir='/home/Zoë/runs/${now:%Y}'", "hydra.sweep.dir='a, b'"]


def test_a_value_in_a_sweep_of_choices_is_not_taken_for_one():
    assert quote_overrides(["tracker=none,local"]) == ["tracker=none,local"]
    with pytest.raises(CompositionError):
        quote_overrides(["tracker=true"])


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["tasks", "check", "desk"], marks=pytest.mark.slow),
        ["tasks", "list", "--config-dir", "desk/conf"],
        ["estimate", "--config-dir", "desk/conf", "task=desk"],
        ["doctor", "--config-dir", "desk/conf", "task=desk"],
        ["prepare", "--config-dir", "desk/conf", "task=desk"],
        ["prefetch", "--config-dir", "desk/conf", "task=desk"],
    ],
)
def test_every_command_works_in_such_a_folder(here, args):
    assert main(args) == 0


@pytest.mark.slow
def test_a_run_and_a_sweep_are_made_read_and_resumed_in_such_a_folder(here, capsys):
    task = ["--config-dir", str(here / "desk" / "conf"), "task=desk", "max_gen=1"]
    assert main([*task, f"hydra.run.dir={here}/runs/a, b"]) == 0
    run = str(here / "runs" / "a, b")
    assert main(["verify", run]) == 0
    assert main(["resume", run, "max_gen=2"]) == 0
    assert main(["export", run, str(here / "best")]) == 0
    assert main(["report", run]) == 0
    sweep = str(here / "runs" / "sweep")
    assert main(["-m", *task, "seed=0,1", f"hydra.sweep.dir={sweep}"]) == 0
    assert main(["resume", sweep]) == 0
    assert main(["sweep", sweep]) == 0
    assert main(["compare", sweep]) == 0
    assert (here / "runs" / "sweep" / "sweep.json").is_file()
