"""LawBench's programs around a model, against a scripted one on a server of this machine."""

import csv
import json
import os
import subprocess
import sys
from typing import cast

import pytest
from omegaconf import OmegaConf

from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import Space, Variant
from sia_runner.system import bundled_folder

pytest.importorskip("aiohttp", reason="NOT CHECKED: aiohttp is not installed (pip install 'sia-runner[models]')")
from tests.provider import Answer, ProviderServer, Reset, Status

WITH_MODEL = bundled_folder("tasks") / "lawbench" / "with_model"
SPACE = cast(Space, recipe_space.load_space(WITH_MODEL / "recipes"))
REFERENCE = (WITH_MODEL / "reference" / "target_agent.py").read_text(encoding="utf-8")
CLASSES = ["盗窃", "诈骗", "非法占用农用地", "[窝藏、包庇]"]
TEXTS = {str(i): "".join(chr(0x4E00 + 500 * i + place) for place in range(400)) for i in range(6)}


def run(program, folder, reply, model="tiny"):
    """Answers by id, and the requests. `reply(id, text asked, how many times the id was asked before)` answers."""
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "text"), *TEXTS.items()])
    (folder / "classes.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    (folder / "target_agent.py").write_text(program, encoding="utf-8")
    asked = dict.fromkeys(TEXTS, 0)

    def script(request):
        unit = request.body["user"]
        asked[unit] += 1
        return reply(unit, request.messages[-1]["content"], asked[unit] - 1)

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
        return {row["id"]: row["label"] for row in csv.DictReader(stream)}, requests


def recipe(name, **constants):
    variant = SPACE.recipes[name].default()
    return SPACE.program(Variant(name, {**variant.constants, **constants}))


def test_the_start_asks_each_beginning_once_under_its_own_id_and_reads_a_charge_as_people_write_it(tmp_path):
    replies = {"0": "盗窃", "1": "罪名：**盗窃罪**。", "2": "诈骗罪。\n因为……", "3": "占用农地"}
    answers, requests = run(REFERENCE, tmp_path, lambda unit, *_: Answer(replies.get(unit, "?")))
    charges = {"0": "盗窃", "1": "盗窃", "2": "诈骗", "3": "占用农地"}
    assert answers == {unit: charges.get(unit, "?") for unit in TEXTS}, "another charge is not guessed"
    assert {r.body["user"]: r.messages[-1]["content"] for r in requests} == {u: t[:240] for u, t in TEXTS.items()}
    assert len(requests) == len(TEXTS)


def test_the_start_says_to_a_chat_model_what_it_is_to_do(tmp_path):
    _, requests = run(REFERENCE, tmp_path, lambda *_: Answer("诈骗"), model="chatty")
    assert all("罪名" in r.messages[-1]["content"] for r in requests)
    assert {r.body["user"]: t for r in requests for t in TEXTS.values() if t in r.messages[-1]["content"]} == TEXTS


def test_the_start_asks_what_the_tiny_policy_is_warmed_on():
    spec = Spec.model_validate(
        OmegaConf.to_container(OmegaConf.load(bundled_folder("conf") / "task" / "lawbench.yaml"))
    )
    assert spec.warmup_format and spec.warmup_format.prompt.format(text=TEXTS["1"]) == TEXTS["1"][:240]
    assert "CHARACTERS = 240" in REFERENCE


def test_failed_calls_leave_their_question_open(tmp_path):
    replies = {"0": Status(400), "1": Reset()}
    answers, _ = run(REFERENCE, tmp_path, lambda unit, *_: replies.get(unit, Answer("诈骗")))
    assert [answers[unit] for unit in "012"] == ["", "", "诈骗"]


def test_every_program_calls_the_model_and_loads_no_package():
    for program in (REFERENCE, *(one.program for one in SPACE.recipes.values())):
        lines = program.splitlines()
        names = [line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))]
        assert set(names) <= sys.stdlib_module_names
        assert "train.csv" not in program, "the answer is the model's"


@pytest.mark.parametrize("name", sorted(SPACE.recipes))
def test_a_recipe_answers_every_question_with_what_the_model_says(tmp_path, name):
    answers, requests = run(recipe(name), tmp_path, lambda unit, *_: Answer(CLASSES[int(unit) % 4]))
    assert answers == {unit: CLASSES[int(unit) % 4] for unit in TEXTS}
    assert {r.body["user"] for r in requests} == set(TEXTS)


@pytest.mark.parametrize("name", sorted(SPACE.recipes))
def test_a_reply_that_is_no_charge_becomes_the_nearest_one(tmp_path, name):
    answers, _ = run(recipe(name), tmp_path, lambda *_: Answer("占用农地"))
    assert set(answers.values()) == {"非法占用农用地"}


def test_taking_the_nearest_charge_can_be_left_out(tmp_path):
    answers, _ = run(recipe("ask", NEAREST=False), tmp_path, lambda *_: Answer("占用农地"))
    assert set(answers.values()) == {"占用农地"}


def test_the_part_that_is_asked_can_be_chosen(tmp_path):
    program = recipe("ask", START=20, CHARACTERS=150, PROMPT="{text}罪名：")
    _, requests = run(program, tmp_path, lambda *_: Answer("盗窃"))
    assert {r.messages[-1]["content"] for r in requests} == {f"{text[20:170]}罪名：" for text in TEXTS.values()}


def test_windows_ask_parts_until_the_text_ends(tmp_path):
    _, requests = run(recipe("windows", WINDOWS=3, STEP=180), tmp_path, lambda *_: Answer("盗窃"))
    asked = {r.messages[-1]["content"] for r in requests if r.body["user"] == "2"}
    assert asked == {TEXTS["2"][:240], TEXTS["2"][180:420]}, "400 characters: a third part would tell nothing new"


def test_the_majority_of_samples_is_the_answer(tmp_path):
    replies = ["诈骗", "盗窃", "盗窃", "诈骗", "盗窃"]
    answers, requests = run(recipe("vote"), tmp_path, lambda _unit, _text, before: Answer(replies[before]))
    assert set(answers.values()) == {"盗窃"}
    assert len(requests) == 5 * len(TEXTS)
