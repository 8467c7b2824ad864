"""``python -m sia_runner tasks``: what there is, a new one, and a review of it with an exit code for scripts."""

import csv

import pytest

from sia_runner.__main__ import main
from sia_runner.commands.task_review import begin_review, run_reference, spy
from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment, check_task
from sia_runner.experiment.context import RunContext
from sia_runner.store.run_directory import RunDir
from sia_runner.system import cache_dir
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.review.subject import TaskReview
from sia_runner.tasks.table import TableTask
from tests.tasks.broken import FAULTS, reference_crashes, reference_hangs, reference_knows_it_all, sound, write
from tests.tasks.making import write_csv

SIX = ("smoke", "arithmetic", "lawbench", "spaceship_titanic", "gpqa", "longcot_chess")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*args):
    return main(["tasks", *args])


def loaded(folder):
    (path,) = (folder / "conf" / "task").glob("*.yaml")
    plain = compose_overrides(["--config-dir", str(folder / "conf"), f"task={path.stem}"])
    task = TableTask(check_task(plain), 0, cache_dir())
    task.prepare(lambda _: None)
    return task


def test_the_list_names_every_task_with_how_it_is_judged(capsys):
    assert command("list") == 0
    shown = capsys.readouterr().out
    for name in (*SIX, "custom"):
        assert f" {name} " in shown
    assert "its evaluate.py" in shown
    [mlebench] = [line for line in shown.splitlines() if " mlebench " in line]
    assert "the competition's" in mlebench and "exact_match" not in mlebench


def test_a_folder_of_the_user_joins_the_list(here, capsys):
    assert command("new", "desk") == 0
    assert command("list", "--config-dir", str(here / "desk" / "conf")) == 0
    assert " desk " in capsys.readouterr().out


def test_a_new_task_says_how_to_run_it_and_where_it_is(here, capsys):
    assert command("new", "desk") == 0
    said = capsys.readouterr().out
    assert "python -m sia_runner --config-dir desk/conf task=desk max_gen=3" in said
    assert "python -m sia_runner tasks check desk" in said
    assert "rows: 400" in said and "judged by choice" in said and "splits: " in said
    task = loaded(here / "desk")
    assert {len(units) > 15 for units in task.splits().values()} == {True}


def test_a_table_of_the_users_own_becomes_a_task_with_its_names_and_values(here):
    rows = [(f"x{n}", f"{n % 7}, said {n}", "yes" if n % 3 else "no") for n in range(200)]
    write_csv(here / "mine.csv", ("key", "what was said", "is it so"), rows)
    done = command("new", "mine", "--csv", "mine.csv", "--id", "key", "--answer", "is it so", "--licence", "mine")
    assert done == 0
    task = loaded(here / "mine")
    assert (task._spec.columns.id, task._spec.columns.answer, task._spec.data.licence) == ("key", "is it so", "mine")
    assert task._spec.metric.choices == ["no", "yes"]
    assert task._units.answers["x1"] == "yes"
    text = (here / "mine" / "reference" / "target_agent.py").read_text()
    assert "ID = 'key'" in text and "ANSWER = 'is it so'" in text


def test_rows_without_ids_are_numbered_and_many_numbers_are_judged_with_a_tolerance(here):
    write_csv(here / "houses.csv", ("rooms", "price"), [(n % 5 + 1, 1000 * (n % 5 + 1) + n) for n in range(150)])
    assert command("new", "houses", "--csv", "houses.csv", "--answer", "price") == 0
    task = loaded(here / "houses")
    assert task._spec.metric.verifier == "numeric"
    assert 0 < task._spec.metric.tolerance < 1000
    with (here / "houses" / "labelled.csv").open() as stream:
        assert next(csv.reader(stream)) == ["id", "rooms", "price"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["new", "Desk"], "a task's name is small letters"),
        (["new", "smoke"], "a task of that name is shipped"),
        (["new", "nan"], "a task's name is small letters"),
        (["new", "desk", "--csv", "no.csv", "--answer", "a"], "no.csv: cannot be read: No such file"),
        (["new", "desk", "--csv", "t.csv", "--answer", "c"], "c: no such column in t.csv; allowed: a, b"),
        (["new", "desk", "--csv", "t.csv", "--answer", "B "], "B: no such column in t.csv; did you mean 'b'?"),
        (["new", "desk", "--csv", "t.csv", "--answer", "b", "--id", "a"], "without an id of their own: 2, 3"),
        (["new", "desk", "--csv", "one.csv", "--answer", "b"], "column b has only the answer 'x'"),
        (["new", "desk", "--csv", "four.csv", "--answer", "b"], "50 labelled rows, of which only 4 differ"),
        (["new", "desk", "--csv", "t.csv"], "--csv FILE and --answer COLUMN come together"),
        (["new", "desk", "--csv", "few.csv", "--answer", "b"], "has no question"),
        (["check"], "missing: NAME|FOLDER"),
        (["check", "no/such"], "no/such: no such folder"),
        (["check", "smok"], "did you mean 'smoke'?"),
        (["check", "custom", "task.dir=peer"], "no data/public/task.md"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_exit_code_2_and_leaves_nothing(here, capsys, args, line):
    write_csv(here / "t.csv", ("a", "b"), [(n % 2, "xy"[n % 2]) for n in range(50)])
    write_csv(here / "one.csv", ("a", "b"), [(n, "x") for n in range(50)])
    write_csv(here / "four.csv", ("a", "b"), [(n % 4, "xy"[n % 2]) for n in range(50)])
    write_csv(here / "few.csv", ("a", "b"), [(1, "x"), (2, "y")])
    assert command(*args) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("refused: ")
    assert line in said
    assert not (here / "desk").exists()


def test_an_existing_folder_is_never_written_into(here, capsys):
    (here / "desk").mkdir()
    assert command("new", "desk") == 2
    assert "is there already" in capsys.readouterr().err
    assert not any((here / "desk").iterdir())


@pytest.mark.parametrize(
    "fault", [reference_crashes, reference_hangs, reference_knows_it_all], ids=lambda f: f.__name__
)
def test_the_reference_harness_is_run_as_a_run_would(here, fault):
    made = sound()
    fault(made)
    write(made, here / "task")
    context = RunContext(
        check_experiment(compose_overrides(["--config-dir", "task/conf", "task=broken"])), RunDir(here / "run")
    )
    found = TaskReview()
    begin_review(context, here)
    run_reference(context, here, found)
    assert FAULTS[fault][0] in {one.code for one in found.findings}


def test_what_the_sandbox_hides_is_looked_for_by_its_real_name(here):
    write(sound(), here / "task")
    context = RunContext(
        check_experiment(compose_overrides(["--config-dir", "task/conf", "task=broken"])), RunDir(here / "run")
    )
    found = TaskReview()
    begin_review(context, here)
    spy(context, here, [here / "task" / "labelled.csv"], found)
    sandbox = context.sandbox
    open_here = sandbox.name == "process" and sandbox.gaps()
    assert open_here or found.notes == []


@pytest.mark.slow
def test_a_new_task_has_no_fault(here, capsys):
    assert command("new", "desk") == 0
    assert command("check", "desk") == 0, capsys.readouterr().out
    assert "task desk: nothing found" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SIX)
def test_the_shipped_tasks_have_no_fault(capsys, name):
    try:
        task = TableTask(check_task(compose_overrides([f"task={name}"])), 0, cache_dir())
        task.prepare(lambda _: None)
    except TaskError as error:
        if "cannot be fetched" not in str(error) and "needs the module" not in str(error):
            raise
        pytest.skip(f"NOT CHECKED, {name}: {error}")
    assert command("check", name) == 0, capsys.readouterr().out
