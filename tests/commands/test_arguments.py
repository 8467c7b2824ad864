"""The command line as a whole: help pages, what is refused, exit codes, Ctrl-C, and docs/commands.md."""

import argparse
import os
import subprocess
import sys

import pytest

from sia_runner import __main__ as program
from sia_runner.commands.arguments import COMMANDS, command_parser, summary
from tests.conftest import ROOT

LINES = [[name] for name in COMMANDS if name not in ("tasks", "adapters")]
LINES += [["tasks", name] for name in ("list", "new", "check")]
LINES += [["adapters", name] for name in ("list", "show", "check", "merge", "export", "publish")]


def parser_of(words):
    parser = command_parser(words[0])
    for word in words[1:]:
        parser = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[word]
    return parser


def usage(words):
    return " ".join(parser_of(words).format_usage().split()[1:]).replace(" [-h]", "")


def expected_table():
    """The rows of docs/commands.md."""
    rows = []
    for words in LINES:
        if words != ["run"]:
            codes = parser_of(words).epilog.removeprefix("Exit codes: ").rstrip(".")
            line = usage(words).removeprefix("python -m sia_runner ").replace("|", "\\|")
            rows.append(f"| `{line}` | {codes} |")
    return rows


def test_the_table_of_the_documentation_is_that_of_the_parsers():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| `")] == expected_table()
    for name in COMMANDS:
        assert f"- **{name}**: {summary(name)}." in text


@pytest.mark.parametrize("words", [[], ["tasks"], ["adapters"], *LINES])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_on_standard_output_with_code_0(capsys, words, option):
    assert program.main([*words, option]) == 0
    out, err = capsys.readouterr()
    assert f"usage: {'python -m sia_runner'}" in out and "Exit codes: " in out and not err
    assert words in ([], ["run"]) or out.startswith(f"usage: python -m sia_runner {' '.join(words)} ")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("reprot runs", "reprot: no such command; did you mean 'report'?; allowed: adapters, approve, "),
        (
            "task=smoke --multirn",
            "--multirn: no such option; did you mean '--multirun'?; allowed: --cfg, --config-dir, ",
        ),
        ("tasks nwe", "nwe: no such command; did you mean 'new'?; allowed: check, list, new"),
        ("compare a b --jsno", "--jsno: no such option; did you mean '--json'?; allowed: --json"),
        ("doctor task=smoke --cal", "--cal: no such option; did you mean '--call'?; allowed: --call, --config-dir"),
        ("sync run projct=x", "projct=x: no such option; did you mean 'project='?; allowed: entity=, project="),
        ("verify one two", "two: one argument too many; usage: python -m sia_runner verify [-h] "),
        ("verify", "missing: RUN_DIR; usage: python -m sia_runner verify [-h] "),
        ("resume", "missing: DIR; usage: python -m sia_runner resume [-h] DIR [KEY=VALUE ...]"),
        ("resume=", "DIR: name a folder; usage: "),
        ("prepare", "missing: KEY=VALUE; usage: "),
        ("estimate --config-dir", "--config-dir/-cd: expected one argument; usage: "),
        ("resume /nowhere", "resume=/nowhere: no run there"),
        ("resume=/nowhere", "resume=/nowhere: no run there"),
        ("verify /nowhere", "/nowhere: no run there"),
        ("export /", "/: no run there (config.yaml is missing)"),
        ("--task smoke", "--task: write it as task=smoke"),
        ("--max_gen=3", "--max_gen=3: write it as max_gen=3"),
        ("task smoke", "task: no such command; to set the key, write task=smoke"),
        ("max_gen", "max_gen: no such command; to set the key, write max_gen=…"),
        ("--config-dir . --config-dir /nowhere task=smoke", "--config-dir=/nowhere: no such folder"),
    ],
)
def test_what_is_refused_is_one_line_with_what_is_allowed(capsys, args, line):
    assert program.main(args.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"refused: {line}") and err.count("\n") == 1 and not out


@pytest.mark.parametrize("name", ["export", "verify"])
def test_a_sweep_is_named_as_one_where_a_run_is_needed(capsys, tmp_path, name):
    (tmp_path / "plan.json").touch()
    assert program.main([name, str(tmp_path)]) == 2
    assert "it is a sweep: name one of its runs" in capsys.readouterr().err


def test_a_reader_that_closes_early_ends_a_command_quietly():
    page = subprocess.Popen([sys.executable, "-u", "-m", "sia_runner", "--help"], stdout=-1, stderr=-1, text=True)
    page.stdout.close()  # before it writes: between two of its writes would be a race
    assert (page.stderr.read(), page.wait()) == ("", 1)  # the command did not end its work


def test_options_and_overrides_may_stand_in_any_order():
    parsed = command_parser("tasks").parse_args(
        ["check", "mine", "--config-dir", "a", "x=1", "--config-dir=b", "~y", "+z=-1"]
    )
    assert (parsed.name, parsed.overrides) == ("mine", ["x=1", "~y", "+z=-1", "--config-dir=a", "--config-dir=b"])
    assert [path.name for path in command_parser("compare").parse_args(["a", "--json", "b"]).folders] == ["a", "b"]


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=0").mkdir()
    parsed = command_parser("report").parse_args(["seed=0", "out=page.html", "sweep=a"])
    assert [path.name for path in (*parsed.folders, parsed.out, *parsed.sweep)] == ["seed=0", "page.html", "a"]


@pytest.mark.parametrize("name", COMMANDS)
def test_control_c_is_one_line_and_130(monkeypatch, capsys, name):
    def interrupted(_):
        raise KeyboardInterrupt

    def left(code):
        raise SystemExit(code)

    arguments = {"run": [], "web": [], "tasks": ["list"], "direct": ["given", "note"], "transfer": ["given", "task=a"]}
    monkeypatch.setattr(f"sia_runner.commands.{name}.main", interrupted)
    monkeypatch.setattr(os, "_exit", left)
    monkeypatch.setattr(sys, "argv", ["sia-runner", name, *arguments.get(name, ["given"])])
    with pytest.raises(SystemExit) as ended:
        program.command()
    assert ended.value.code == 130 and capsys.readouterr() == ("", "interrupted\n")
