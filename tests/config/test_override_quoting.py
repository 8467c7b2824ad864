"""Paths and values of any characters reach the configuration; a choice of a group is a name."""

import json
import re
import subprocess
import sys
import urllib.request
from urllib.parse import quote

import pytest

from sia_runner.__main__ import main
from sia_runner.commands.arguments import COMMANDS, command_parser
from sia_runner.config.composition import CompositionError, compose_overrides, quote_overrides
from tests.harnesses import MAJORITY
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


# A trial of every command, in a folder with such a name. Paths are relative to it, so each is resolved there.
ARGUMENTS = {
    "resume": ["runs/a, b", "max_gen=2"],
    "sweep": ["runs/sweep"],
    "report": ["runs/a, b", "out=page, 1.html"],
    "compare": ["runs/sweep"],
    "verify": ["runs/a, b"],
    "export": ["runs/a, b", "best, 1"],
    "doctor": ["--config-dir", "desk/conf", "task=desk"],
    "estimate": ["--config-dir", "desk/conf", "task=desk"],
    "tasks list": ["--config-dir", "desk/conf"],
    "tasks new": ["chair", "--csv", "d.csv", "--answer", "desk", "--dir", "a, b=c"],
    "tasks check": ["desk"],
    "adapters list": ["trained, 1"],
    "adapters show": ["trained, 1/gen_2"],
    "adapters check": ["trained, 1/gen_2", "--base", "base, 1"],
    "adapters merge": ["trained, 1/gen_2", "merged, 1"],
    "adapters export": ["trained, 1", "taken, 1"],
    "adapters publish": ["trained, 1", "someone/adapter", "--base", "someone/base", "--dry-run", "sent, 1"],
    "transfer": ["runs/a, b", "task=smoke", "task.metric.name=macro_f1"],
    "approve": ["runs/waiting, 1"],
    "prepare": ["--config-dir", "desk/conf", "task=desk"],
    "prefetch": ["--config-dir", "desk/conf", "task=desk"],
    "sync": ["runs/a, b"],
    "convert": ["provider, 1.json", "--out", "conf, 1"],
}
QUICK = {"doctor", "estimate", "tasks list", "tasks new", "prepare", "prefetch", "convert"}
# `run` and `web` have a test of their own below; `direct` is refused for a proposer without a model: tests/e2e
ELSEWHERE = {"run", "web", "direct"}


def test_no_command_of_the_help_page_is_forgotten():
    names = set()
    for command in COMMANDS:
        parts = [action for action in command_parser(command)._actions if action.dest == "command"]
        names |= {f"{command} {part}" for part in parts[0].choices} if parts else {command}
    assert names == {*ARGUMENTS, *ELSEWHERE}


@pytest.fixture
def runs(here, cli):
    """A finished run and a sweep of two, of the smoke task."""
    quick = ["task=smoke", *cli.replay(MAJORITY)]
    assert main([*quick, "hydra.run.dir=runs/a, b"]) == 0
    return here, quick


@pytest.fixture
def provider(here):
    entry = {"provider_id": "our_own", "name": "ours", "client_kind": "openai", "base_url": "http://localhost/v1"}
    (here / "provider, 1.json").write_text(json.dumps(entry | {"api_key_env": "OUR_KEY"}))


@pytest.fixture
def sweep(runs):
    here, quick = runs
    assert main(["-m", *quick, "seed=0,1", "hydra.sweep.dir=runs/sweep"]) == 0
    assert (here / "runs" / "sweep" / "sweep.json").is_file()


@pytest.fixture
def waiting(here, cli):
    assert main(["task=smoke", "approve=all", *cli.replay(MAJORITY), "hydra.run.dir=runs/waiting, 1"]) == 130


@pytest.fixture
def trained(here):
    pytest.importorskip("peft", reason="adapters are PEFT's")
    from tests.commands import test_adapters as made

    base = made.save_base(here / "base, 1", 1)
    made.save_adapter(here / "trained, 1" / "gen_2" / "adapter", base, 1, str(base))
    made.write_journal(here / "trained, 1", {1: ("harness", "accepted"), 2: ("weights", "accepted")})


@pytest.fixture
def tracker(runs, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is missing: pip install 'sia-runner[tracking]'")
    from tests.tracking.server import serving

    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        yield


NEEDS = {"sweep": "sweep", "compare": "sweep", "approve": "waiting", "convert": "provider", "sync": "tracker"}
NEEDS |= dict.fromkeys(("resume", "report", "verify", "export", "transfer"), "runs")
NEEDS |= {name: "trained" for name in ARGUMENTS if name.startswith("adapters ")}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in ARGUMENTS])
def test_every_command_works_in_such_a_folder(here, name, request, capsys):
    (here / "a, b=c").mkdir()
    request.getfixturevalue(NEEDS.get(name, "here"))
    assert main([*name.split(), *ARGUMENTS[name]]) == 0, capsys.readouterr()


@pytest.mark.slow
def test_the_dashboard_shows_runs_of_such_a_folder(runs):
    command = [sys.executable, "-m", "sia_runner", "web", "runs_dir=runs", "port=0", "until=stdin"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    told = server.stdout.readline()
    (address,) = re.findall(r"(http://127\S+)", told)
    assert f"{FOLDER}/runs" in told
    (row,) = json.loads(urllib.request.urlopen(f"{address}api/runs").read())["rows"]
    assert row["path"] == "a, b"
    page = json.loads(urllib.request.urlopen(f"{address}api/run?path={quote(row['path'])}").read())
    assert len(page["generations"]) == 1
    server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.mark.slow
def test_a_run_of_an_own_task_and_a_sweep_are_made_and_resumed_in_such_a_folder(here):
    task = ["--config-dir", str(here / "desk" / "conf"), "task=desk", "max_gen=1"]
    assert main([*task, f"hydra.run.dir={here}/runs/a, b"]) == 0
    assert main(["verify", str(here / "runs" / "a, b")]) == 0
    sweep = str(here / "runs" / "sweep")
    assert main(["-m", *task, "seed=0,1", f"hydra.sweep.dir={sweep}"]) == 0
    assert main(["resume", sweep]) == 0
