"""The programs of the chess task, run for real: on made-up problems, and with a model on a server of this machine."""

import csv
import os
import random
import re
import subprocess
import sys
from itertools import pairwise, permutations
from typing import cast

import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import Space
from sia_runner.system import bundled_folder
from sia_runner.tasks.worker import load_module

TASK = bundled_folder("tasks") / "longcot_chess"
SPACE = cast(Space, recipe_space.load_space(TASK / "recipes"))
EXACT = load_module(TASK / "recipes" / "exact.py")
MATE_IN_TWO = "6k1/5ppp/8/8/8/8/5PPP/R2R2K1 w - - 0 1"  # Ra8+ or Rd8+, and the last rank gives way


def problem(squares):
    start, *targets = squares
    return (
        "There is a chess board of size 100x100 and certain target squares.\n\n"
        f"Starting Postion: {start}\nTarget Squares: {targets}\n\nReturn your answer as: solution = <integer>"
    )


def squares(seed, count):
    rng = random.Random(seed)
    return [(rng.randrange(100), rng.randrange(100)) for _ in range(count)]


def least(given):
    """By trying every order."""
    table = EXACT.distances(EXACT.read_squares(problem(given)))
    return min(sum(table[a][b] for a, b in pairwise((0, *order))) for order in permutations(range(1, len(table))))


ROWS = [("knight_path", problem(squares(seed, 7))) for seed in range(6)]
ROWS.append(
    ("best_3_moves", f"You are given a chess position using this FEN: {MATE_IN_TWO}\nGive the 3 best next moves")
)


def run(program, folder, rows=ROWS, **env):
    """The answers in the order of `rows`."""
    (folder / "target_agent.py").write_text(program, encoding="utf-8")
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "template", "prompt"), *((i, *row) for i, row in enumerate(rows))])
    command = [
        sys.executable,
        str(folder / "target_agent.py"),
        "--dataset_dir",
        str(folder),
        "--working_dir",
        str(folder),
    ]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as stream:
        answers = {row["id"]: row["answer"] for row in csv.DictReader(stream)}
    return [answers[str(i)] for i in range(len(rows))], done.stderr


@pytest.mark.parametrize("name", ["exact", "exact_and_lines"])
def test_the_exact_recipes_find_the_least_number_of_moves(name, tmp_path):
    if name == "exact_and_lines":
        pytest.importorskip("chess", reason="NOT CHECKED: chess is not installed (pip install 'sia-runner[chess]')")
    answers, _ = run(SPACE.program(SPACE.recipes[name].default()), tmp_path)
    assert answers[:6] == [str(least(squares(seed, 7))) for seed in range(6)]


def test_the_local_search_finds_a_tour_and_on_few_targets_the_shortest(tmp_path):
    answers, _ = run(SPACE.program(SPACE.recipes["local_search"].default()), tmp_path)
    assert [int(answer) for answer in answers[:6]] == [least(squares(seed, 7)) for seed in range(6)]
    assert answers[6] == ""


def test_a_longer_local_search_never_finds_a_longer_tour(tmp_path):
    rows = [("knight_path", problem(squares(seed, 31))) for seed in range(3)]
    program = SPACE.program(SPACE.recipes["local_search"].default())
    (tmp_path / "long").mkdir()
    few, _ = run(program, tmp_path, rows)
    many, _ = run(program.replace("KICKS = 3", "KICKS = 40"), tmp_path / "long", rows)
    exact = [EXACT.shortest(EXACT.distances(EXACT.read_squares(prompt))) for _, prompt in rows]
    assert all(int(a) >= int(b) >= c for a, b, c in zip(few, many, exact, strict=True))


def test_a_square_that_is_named_twice_is_visited_once():
    given = squares(1, 4)
    once = EXACT.shortest(EXACT.distances(EXACT.read_squares(problem(given))))
    assert EXACT.shortest(EXACT.distances(EXACT.read_squares(problem([*given, *given])))) == once


@pytest.mark.parametrize(("a", "b", "moves"), [((0, 0), (1, 1), 4), ((50, 50), (51, 51), 2), ((0, 0), (99, 99), 66)])
def test_distances_know_the_edge_of_the_board(a, b, moves):
    assert EXACT.distances(EXACT.read_squares(problem([a, b])))[0][1] == moves


def test_the_alpha_beta_search_finds_a_short_mate(tmp_path):
    chess = pytest.importorskip("chess", reason="NOT CHECKED: chess is not installed (pip install 'sia-runner[chess]')")
    answers, _ = run(SPACE.program(SPACE.recipes["exact_and_lines"].default()), tmp_path, ROWS[-1:])
    board = chess.Board(MATE_IN_TWO)
    for move in re.findall(r"[^\[\], ]+", answers[0]):
        board.push_san(move)
    assert board.is_checkmate()


def test_the_naive_start_without_a_model_answers_tours_only(tmp_path):
    answers, _ = run((TASK / "reference" / "target_agent.py").read_text(), tmp_path)
    assert answers[6] == ""
    assert all(int(answer) > 0 for answer in answers[:6])


def test_the_naive_start_with_a_model_asks_each_question_once_by_its_id(tmp_path):
    pytest.importorskip("openai", reason="NOT CHECKED: openai is not installed (pip install 'sia-runner[models]')")
    from tests.provider import Answer, ProviderServer, Status

    def script(request):
        asked = request.body["user"]
        return Status(500) if asked == "3" else Answer(f"Let me think.\nsolution = {asked}\nThat is all.")

    with ProviderServer(script) as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test-key", "SIA_MODEL": "scripted"}
        answers, errors = run((TASK / "reference" / "target_agent.py").read_text(), tmp_path, **env)
        assert answers == ["0", "1", "2", "", "4", "5", "6"]
        assert server.tally.calls == 7
    assert "question 3:" in errors


@pytest.mark.slow
def test_every_key_of_the_data_holds(monkeypatch):
    from tests.tasks.test_shipped_tasks import load

    monkeypatch.delitem(sys.modules, "verifier", raising=False)  # another task's, from another test

    task = load("longcot_chess")
    task.prepare(print)
    monkeypatch.syspath_prepend(str(TASK))
    check = load_module(TASK / "check_keys.py")
    with (task._source / "labelled.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert (len(rows), check.faults(rows)) == (50, [])


@pytest.mark.slow
def test_a_run_without_key_or_network_learns_to_solve_tours(cli):
    pytest.importorskip("chess", reason="NOT CHECKED: chess is not installed (pip install 'sia-runner[chess]')")
    done = cli("task=longcot_chess", "max_gen=2", timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    best = cli.summary["best"]
    assert best["generation"] == 2
    assert best["test"]["value"] >= 0.7
    assert best["baseline_test"]["value"] <= 0.1
