"""``tasks new`` makes of a table as people have it a task that runs, and says what it understood."""

import csv
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sia_runner.__main__ import main
from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment, check_task
from sia_runner.experiment.context import Components
from sia_runner.proposers import recipe_space
from sia_runner.system import cache_dir
from sia_runner.tasks.table import TableTask
from tests.provider import Answer, ProviderServer
from tests.tasks.making import write_csv

FILE = Path("d.csv")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(answers, n=200):
    """Rows `text,desk` whose answers are drawn from a list."""
    drawn = random.Random(1)
    return [(f"message {n} about {drawn.randint(1, 9999)}", drawn.choice(answers)) for n in range(n)]


def new(capsys, header, rows, answer, *options):
    """Make the task `desk` of these rows; return it loaded as a run loads it, and the lines that were printed."""
    write_csv(FILE, header, rows)
    code = main(["tasks", "new", "desk", "--csv", "d.csv", "--answer", answer, *options])
    output = capsys.readouterr()
    assert code == 0, output.err
    plain = compose_overrides(["--config-dir", "desk/conf", "task=desk"])
    task = TableTask(check_task(plain), 0, cache_dir())
    task.prepare(lambda _: None)
    return task, output.out


def refused(capsys, header, rows, answer):
    write_csv(FILE, header, rows)
    assert main(["tasks", "new", "desk", "--csv", "d.csv", "--answer", answer]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert not Path("desk").exists()
    return line


@pytest.mark.parametrize(
    "answers",
    [
        ["1E5", "1e-3", "1.5e3"],
        ["yes", "no"],
        ["NO", "SE", "on", "off"],
        ["null", "true", "~"],
        ["${a}", "x"],
        ["0x1f", "1_000", "12:30:00"],
        ["2024-01-01", "=", "<<"],
        ["a: b", "- c", "# d", "'", '"'],
    ],
)
def test_answers_that_yaml_reads_as_something_else_stay_as_they_are(here, capsys, answers):
    task, _ = new(capsys, ("text", "desk"), rows_of(answers), "desk")
    assert task._spec.metric.choices == sorted(answers)
    assert set(task._units.answers.values()) == set(answers)


@pytest.mark.parametrize("column", ["1e3", "no", "${oc.env:HOME}", "a: b", "null", "x\\${y}"])
def test_a_column_and_a_licence_of_any_name_are_kept(here, capsys, column):
    task, _ = new(capsys, ("text", column), rows_of("ab"), column, "--licence", f"© {column}")
    assert (task._spec.columns.answer, task._spec.data.licence) == (column, f"© {column}")


def test_a_choice_that_the_yaml_does_not_quote_is_refused_with_that_remedy(here, capsys):
    new(capsys, ("text", "desk"), rows_of(["NO", "SE"]), "desk")
    path = here / "desk" / "conf" / "task" / "desk.yaml"
    path.write_text(path.read_text().replace("'NO'", "NO"))
    assert main(["tasks", "check", "desk"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "choices.0=False" in line and "quote it" in line


@pytest.mark.parametrize(
    ("answers", "verifier"),
    [
        ([str(n) for n in range(101, 131)], "exact_match"),  # departments
        ([f"0{n}" for n in range(1067, 1267)], "exact_match"),  # postcodes
        ([str(n) for n in range(1000, 9000)], "numeric"),
        ([f"{n / 8}" for n in range(30)], "numeric"),
        (["1", "2", "3"], "choice"),
    ],
)
def test_whole_numbers_that_recur_or_are_padded_name_classes_and_others_are_measured(here, capsys, answers, verifier):
    task, said = new(capsys, ("text", "desk"), rows_of(answers), "desk")
    assert task._spec.metric.verifier == verifier
    assert f"judged by {verifier}" in said and "conf/task/desk.yaml" in said
    programs = [*(here / "desk").glob("re*/*.py")]
    assert {f"MEASURED = {verifier == 'numeric'} " in path.read_text() for path in programs} == {True}


@pytest.mark.parametrize("stray", ["<1.0", "12 €", "about 5", "1.2.3"])
def test_cells_that_are_no_number_among_numbers_are_named(here, capsys, stray):
    rows = [(f"text {n}", f"{n}.25") for n in range(299)]
    line = refused(capsys, ("text", "price"), [*rows[:10], ("odd", stray), *rows[10:]], "price")
    assert "column price" in line and f"row 12 {stray!r}" in line


def test_rows_without_an_answer_are_left_out_and_named(here, capsys):
    rows = [*((f"text {n}", f"{n}.25") for n in range(298)), ("odd", "n/a"), ("even", " ")]
    task, said = new(capsys, ("text", "price"), rows, "price")
    assert len(task._units.answers) == 298 and task._spec.metric.verifier == "numeric"
    assert "rows without an answer left out (2): 300, 301" in said


def test_a_word_for_nothing_is_an_answer_among_words(here, capsys):
    task, _ = new(capsys, ("text", "land"), rows_of(["NA", "DE", "none"]), "land")
    assert task._spec.metric.choices == ["DE", "NA", "none"]


def test_a_thousands_separator_in_one_price_is_read(here, capsys):
    rows = [*((f"text {n}", f"{n}.25") for n in range(200)), ("dear", "1,299.00")]
    task, _ = new(capsys, ("text", "price"), rows, "price")
    assert task._units.answers["201"] == "1299.00"


def test_answers_that_differ_only_in_case_or_blanks_and_equal_rows_are_said(here, capsys):
    rows = [(f"text {n % 120}", ["Yes", "yes", "no", "no "][n % 4]) for n in range(200)]
    task, said = new(capsys, ("text ", "desk "), rows, "desk ")
    assert "'Yes' (50) and 'yes' (50)" in said and "only 120 of 200 rows differ" in said
    assert task._spec.metric.choices == ["Yes", "no", "yes"]
    assert task._units.columns == ["text"]


def test_a_second_column_of_the_same_name_is_refused(here, capsys):
    rows = [(answer, text, answer) for text, answer in rows_of("ab")]
    assert "columns 1 and 3 are both called 'desk'" in refused(capsys, ("desk", "text", "desk"), rows, "desk")


def test_a_hand_made_table_with_two_columns_of_one_name_is_refused_too(here, capsys):
    new(capsys, ("text", "desk"), rows_of("ab"), "desk")
    rows = [(n, answer, text, answer) for n, (text, answer) in enumerate(rows_of("ab"))]
    write_csv(here / "desk" / "labelled.csv", ("id", "text", "text", "desk"), rows)
    assert main(["tasks", "check", "desk"]) == 2
    assert "two columns are called 'text'" in capsys.readouterr().err


def asked_by(program, view, reply):
    """Run a harness that calls a model on a view; return its answers and requests."""
    with ProviderServer(reply) as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test-key", "SIA_MODEL": "scripted"}
        command = [sys.executable, "-I", str(program), "--dataset_dir", str(view), "--working_dir", "."]
        subprocess.run(command, env={"PATH": os.environ["PATH"], **env}, check=True, timeout=60)
        requests = list(server.requests)
    with Path("submission.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream)), requests


def test_a_new_task_has_harnesses_that_call_a_model_and_name_the_question(here, capsys):
    """With the prompt that a tiny policy is warmed on; they are where a run with a model or a trainer begins."""
    pytest.importorskip("aiohttp", reason="NOT CHECKED: aiohttp is not installed (pip install 'sia-runner[models]')")
    rows = [(text, n, answer) for n, (text, answer) in enumerate(rows_of(["a {x}", "b"]))]
    task, _ = new(capsys, ("my text", "n", "desk"), rows, "desk")
    view = here / "view"
    task.lay_out(task.rounds("select")[0], view, "salt")
    with (view / "questions.csv").open(newline="", encoding="utf-8") as stream:
        units = {row["id"] for row in csv.DictReader(stream)}
    ask = "Answer with the desk, one of a {x}, b, and nothing else.\nmy text: message "

    program = here / "desk" / "with_model" / "reference" / "target_agent.py"
    answers, requests = asked_by(program, view, lambda _: Answer(" b\n"))
    assert {row["id"] for row in answers} == units == {request.body["user"] for request in requests}
    assert {row["desk"] for row in answers} == {"b"}
    assert {request.last[: len(ask)] for request in requests} == {ask}
    shown = {prompt.split("\n")[0] + prompt.split("\n")[1][:17] for prompt, _ in task.dialogues()}
    assert shown == {ask.replace("\n", "")} and {answer for _, answer in task.dialogues()} == {"a {x}", "b"}

    recipe = here / "desk" / "with_model" / "recipes" / "ask.py"
    answers, requests = asked_by(recipe, view, lambda _: Answer("It is a {x}."))
    assert {row["desk"] for row in answers} == {"a {x}"}, "the nearest answer"
    assert {len(request.messages) for request in requests} == {9}  # four labelled rows before the question
    assert recipe_space.load_space(recipe.parent)

    context = Components(
        check_experiment(compose_overrides(["--config-dir", "desk/conf", "task=desk", "trainer=grpo"]))
    )
    assert context.reference_harness == program.parent


@pytest.mark.parametrize("column", ["a.b", "a:b", "0", "x[1]", "{", "c!d"])
def test_a_column_whose_name_fits_no_format_leaves_the_warm_up_as_it_is(here, capsys, column):
    task, _ = new(capsys, (column, "desk"), rows_of("ab"), "desk")
    assert task._spec.warmup_format is None and task.dialogues()[0][0].startswith("message ")


def test_one_line_of_the_yaml_measures_how_far_numbers_are_off(here, capsys):
    new(capsys, ("text", "price"), [(f"row {n}", str(n * 1.5)) for n in range(200)], "price")
    yaml = here / "desk" / "conf" / "task" / "desk.yaml"
    text = yaml.read_text(encoding="utf-8")
    (line,) = [line[2:] for line in text.splitlines() if line.startswith("# metric: ")]
    yaml.write_text(re.sub(r"(?m)^metric:\n(  .*\n)+", line + "\n", text), encoding="utf-8")
    metric = check_task(compose_overrides(["--config-dir", "desk/conf", "task=desk"])).metric
    assert (metric.name, metric.verifier, metric.higher_is_better) == ("rmse", "rmse", False)
    assert main(["--config-dir", "desk/conf", "task=desk", "max_gen=1", "hydra.run.dir=runs/a"]) == 0


def test_a_task_folder_may_be_moved(here, capsys):
    new(capsys, ("text", "desk"), rows_of("ab"), "desk")
    shutil.move(here / "desk", here / "elsewhere" / "desk")
    plain = compose_overrides(["--config-dir", "elsewhere/desk/conf", "task=desk"])
    assert plain["task"]["dir"] == str(here / "elsewhere" / "desk")
    assert main(["--config-dir", "elsewhere/desk/conf", "task=desk", "max_gen=1", "hydra.run.dir=runs/a"]) == 0


@pytest.mark.slow
def test_a_run_whose_task_folder_was_moved_is_resumed_with_the_new_one(here, capsys, monkeypatch):
    new(capsys, ("text", "desk"), rows_of("ab"), "desk")
    run = here / "runs" / "a"
    assert main(["--config-dir", "desk/conf", "task=desk", "max_gen=1", f"hydra.run.dir={run}"]) == 0
    shutil.move(here / "desk", here / "moved = desk")
    assert main(["resume", str(run), "max_gen=2"]) == 2
    assert (
        f"{here}/desk is missing (task.dir of the run); if it was moved: resume RUN_DIR task.dir=DIR"
        in capsys.readouterr().err
    )

    shutil.copytree(here / "moved = desk", here / "other")
    with (here / "other" / "labelled.csv").open("a") as stream:
        stream.write("x200,text,a\n")
    assert main(["resume", str(run), "max_gen=2", "task.dir=other"]) == 2
    assert "the data changed since the run began (labelled.csv)" in capsys.readouterr().err

    assert main(["resume", str(run), "max_gen=2", "task.dir=moved = desk"]) == 0
    monkeypatch.chdir(run)  # the journal has the whole path
    assert main(["resume", str(run), "max_gen=3"]) == 0
    assert main(["verify", str(run)]) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_short_answers_are_not_taken_for_gold_that_a_verifier_shows(here, capsys):
    new(capsys, ("text", "desk"), rows_of(["no", "on", "se", "en"]), "desk", "--licence", "mine")
    assert main(["tasks", "check", "desk"]) == 0, capsys.readouterr().out


def test_what_was_half_written_does_not_block_the_second_try(here, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    write_csv(FILE, ("text", "desk"), rows_of("ab"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sia_runner.tasks.new_task._try_task", interrupt)
        main(["tasks", "new", "desk", "--csv", "d.csv", "--answer", "desk"])
    assert main(["tasks", "new", "desk", "--csv", "d.csv", "--answer", "desk"]) == 0


def test_cells_reach_the_harness_as_they_are(here, capsys):
    rows = [*rows_of("ab"), ("a\r\nb\u2028c\x0bd", "a")]
    new(capsys, ("text", "desk"), rows, "desk")
    with (here / "desk" / "labelled.csv").open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream))[-1][1] == rows[-1][0]
