"""A real run through the gateway: the model knows every answer, val's too, and the evidence shows calls of dev only."""

import re

import pytest

from tests.experiment.evidence import secrets_task
from tests.harnesses import HEAD
from tests.provider import Answer, ProviderServer, Request

HARNESS = (
    HEAD
    + """
import json, urllib.request
def ask(question):
    body = {"model": os.environ["SIA_MODEL"], "user": question["id"],
            "messages": [{"role": "user", "content": question["text"]}]}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]})
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
def last(text): return text.split()[-1]
answer([(q["id"], last(ask(q))) for q in asked])
"""
)


def knows_all(request: Request) -> Answer:
    """The gold answer of every odd question, a guess for the others."""
    found = re.search(r"question (\d+) \?", str(request.messages[-1]["content"]))
    assert found
    row = int(found[1])
    return Answer(f"It must be {secrets_task.gold_of(row) if row % 2 else 'nothing'}")


@pytest.fixture(scope="module")
def made(make_run, tmp_path_factory):
    overrides = secrets_task.make(tmp_path_factory.mktemp("task"))
    with ProviderServer(knows_all) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIA_TEST_KEY", "test-key")
        provider = ["provider=custom", f"provider.base_url={server.base_url}", "provider.model=scripted"]
        overrides += [*provider, "provider.key=SIA_TEST_KEY", "target_agent=model", "budget.calls=5000"]
        return make_run(overrides, HARNESS, HARNESS + "#")


def test_calls_of_dev_questions_are_shown_and_none_of_val(made):
    folder = made.run.generation(2).evidence
    shown = "\n".join(path.read_text() for path in (folder / "trajectories").iterdir())
    asked = {int(row) for row in re.findall(r"question (\d+) \?", shown)}
    dev = {int(unit) for unit in made.context.task.splits()["dev"]}
    assert asked and asked <= dev
    assert {row % 2 for row in asked} == {0, 1}, "failures, and successes to compare with"
    assert "It must be nothing" in shown and "finish reason stop" in shown


def test_no_gold_answer_of_val_or_test_is_in_the_evidence_although_the_model_said_them(made):
    units = made.context.task.splits()
    calls = (made.run.generation(1).harness_runs(1)[0].trajectories).read_text()
    assert any(secrets_task.gold_of(int(unit)) in calls for unit in units["val"])
    for path in made.run.generation(2).evidence.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert not [u for split in ("val", "test") for u in units[split] if secrets_task.gold_of(int(u)) in text], path


def test_the_budget_left_is_what_the_first_generation_left(made):
    page = (made.run.generation(2).evidence / "overview.md").read_text()
    gate, run = (
        4,
        sum(len(made_of) for name, made_of in made.context.task.splits().items() if name in ("dev", "val")),
    )
    assert f"{5000 * 0.9 - gate - run:,.6g} calls" in page
