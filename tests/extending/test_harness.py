"""docs/harness.md: its harnesses, tried with its commands."""

import json

import pytest

from tests.extending.following import Workplace, add, page, section
from tests.provider import ProviderServer

PAGE = section(page("harness.md"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    with ProviderServer(add, models=("adder",), keys=()) as server:
        place = Workplace(tmp_path_factory.mktemp("mine"), [PAGE], MODEL_URL=server.base_url, MODEL="adder")
        place.follow(PAGE)
        yield place


def test_the_first_harness_is_better_than_the_commonest_answer(workplace):
    summary = workplace.summary("mine")
    assert summary["generations"][0]["status"] == "accepted" and summary["best"]["test"]["value"] > 0.5


def test_the_second_one_names_the_question_of_each_call(workplace):
    assert workplace.summary("asks")["best"]["test"]["value"] > 0.95
    lines = (workplace.folder / "runs" / "asks" / "gen_1" / "trajectories.jsonl").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    assert len(calls) > 300 and all(call["question"] for call in calls)


def test_the_page_is_one_page():
    assert len(page("harness.md").split()) < 1100
