"""The arithmetic task: its data, and its programs against a model on a server of this machine."""

import csv
import os
import subprocess
import sys
from typing import cast

import pytest
from omegaconf import OmegaConf

from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import Space, Variant
from sia_runner.store.run_directory import sha256_of
from sia_runner.system import bundled_folder, cache_dir
from sia_runner.tasks.table import TableTask

pytest.importorskip("aiohttp", reason="NOT CHECKED: aiohttp is not installed (pip install 'sia-runner[models]')")
from tests.provider import Answer, ProviderServer, Reset, Status

TASK = bundled_folder("tasks") / "arithmetic"
SPACE = cast(Space, recipe_space.load_space(TASK / "recipes"))
REFERENCE = (TASK / "reference" / "target_agent.py").read_text(encoding="utf-8")
SUMS = {str(i): (f"{100 + i}+{1 + i % 4}=", str(101 + i + i % 4)) for i in range(40)}


def run(program, folder, reply, model="tiny"):
    """Answers by id, and the requests. `reply(question, how many times it was asked before)` answers."""
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "question"), *((unit, question) for unit, (question, _) in SUMS.items())])
    (folder / "target_agent.py").write_text(program, encoding="utf-8")
    asked = dict.fromkeys(SUMS, 0)

    def script(request):
        unit = request.body["user"]
        asked[unit] += 1
        return reply(unit, asked[unit] - 1)

    with ProviderServer(script, models=(model,)) as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test-key", "SIA_MODEL": model}
        command = [sys.executable, "-I", str(folder / "target_agent.py")]
        command += ["--dataset_dir", str(folder), "--working_dir", str(folder)]
        done = subprocess.run(
            command, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        requests = list(server.requests)
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row["answer"] for row in csv.DictReader(stream)}, requests


def recipe(name, **constants):
    variant = SPACE.recipes[name].default()
    return SPACE.program(Variant(name, {**variant.constants, **constants}))


def load(split_seed=0):
    spec = Spec.model_validate(
        OmegaConf.to_container(OmegaConf.load(bundled_folder("conf") / "task" / "arithmetic.yaml"))
    )
    return TableTask(spec, split_seed, cache_dir())


# --- the data -----------------------------------------------------------------------------------------------


def test_the_data_is_the_same_on_every_machine_and_right(tmp_path):
    subprocess.run([sys.executable, "-I", str(TASK / "make_data.py"), "--out", str(tmp_path)], check=True, timeout=60)
    assert sha256_of(tmp_path / "labelled.csv") == "880072e431ed84969811a6ac90380073c9addbc1272164e2df1fdb9adbfe6dd5"
    with (tmp_path / "labelled.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        one, other = row["question"].removesuffix("=").split("+")
        assert int(one) + int(other) == int(row["answer"])


@pytest.mark.parametrize("split_seed", [0, 1])
def test_most_of_what_is_taught_is_for_rollouts_and_val_and_test_are_sharp(split_seed):
    task = load(split_seed)
    sizes = {name: len(units) for name, units in task.splits().items()}
    assert sizes == {"train": 410, "rollout": 591, "dev": 98, "val": 301, "test": 400}
    (round_,) = task.rounds("rollout", units=task.splits()["rollout"][:64])
    assert len(round_.train) == 410, "no two questions are alike: all differ in a number"


def test_no_question_is_in_two_splits():
    task = load()
    place = {}
    for name, units in task.splits().items():
        for unit in units:
            assert place.setdefault(task._units.content(unit), name) == name


# --- the naive start ----------------------------------------------------------------------------------------


def test_the_naive_start_asks_each_bare_question_once_under_its_own_id(tmp_path):
    answers, requests = run(REFERENCE, tmp_path, lambda unit, _: Answer(SUMS[unit][1]))
    assert answers == {unit: answer for unit, (_, answer) in SUMS.items()}
    assert {r.body["user"]: r.messages[-1]["content"] for r in requests} == {u: q for u, (q, _) in SUMS.items()}
    assert len(requests) == len(SUMS)


def test_the_naive_start_asks_a_chat_model_in_words(tmp_path):
    _, requests = run(REFERENCE, tmp_path, lambda unit, _: Answer(SUMS[unit][1]), model="chatty")
    asked = {r.body["user"]: r.messages[-1]["content"] for r in requests}
    assert asked["0"] == "What is 100+1? Answer with the number only."


def test_the_naive_start_reads_what_a_reply_states_and_leaves_failed_calls_open(tmp_path):
    written = {
        "0": ("100 plus 1 is 101.", "101"),
        "1": ("I do not know", ""),
        "4": (" 7\n", "7"),
        "5": ("105 + 2 = **107**", "107"),
        "6": ("Answer: 1,106", "1106"),
        "7": ("$107+4=111$, since 4 is added to 107.", "111"),
        "8": ("It is 109, and not 110", "109"),
    }
    replies = {"2": Status(400), "3": Reset()} | {unit: Answer(text) for unit, (text, _) in written.items()}
    answers, _ = run(REFERENCE, tmp_path, lambda unit, _: replies.get(unit, Answer("7")))
    assert {unit: answers[unit] for unit in written} == {unit: number for unit, (_, number) in written.items()}
    assert answers["2"] == answers["3"] == ""


def test_the_naive_start_loads_no_package():
    assert "import openai" not in REFERENCE
    for program in (REFERENCE, *(one.program for one in SPACE.recipes.values())):
        names = [
            line.split()[1].split(".")[0] for line in program.splitlines() if line.startswith(("import ", "from "))
        ]
        assert set(names) <= sys.stdlib_module_names


# --- the recipes --------------------------------------------------------------------------------------------


def test_a_question_is_asked_again_until_a_reply_holds_a_number(tmp_path):
    answers, requests = run(
        recipe("ask", TRIES=3), tmp_path, lambda _, before: Answer("hm" if before < 2 else "It is -1,234")
    )
    assert set(answers.values()) == {"-1234"}
    assert len(requests) == 3 * len(SUMS)
    assert sorted({r.body["temperature"] for r in requests}) == [0.0, 0.7], "the same question would get the same reply"


def test_prompt_and_parsing_can_be_chosen(tmp_path):
    program = recipe("ask", PROMPT="Compute {question}", TAKE="first")
    answers, requests = run(program, tmp_path, lambda *_: Answer("5 and 6"))
    assert set(answers.values()) == {"5"}
    assert all(r.messages[-1]["content"].startswith("Compute 1") for r in requests)


def test_the_majority_of_samples_is_the_answer(tmp_path):
    replies = ["1", "2", "none", "2", "3"]
    answers, requests = run(recipe("vote", SAMPLES=5), tmp_path, lambda _, before: Answer(replies[before]))
    assert set(answers.values()) == {"2"}
    assert len(requests) == 5 * len(SUMS)


def test_a_vote_without_a_number_is_no_answer(tmp_path):
    answers, _ = run(recipe("vote", SAMPLES=3), tmp_path, lambda *_: Answer("?"))
    assert set(answers.values()) == {""}
