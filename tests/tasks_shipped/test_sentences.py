"""The sentences task: its data, its verifier against texts that try to get by, and its programs."""

import csv
import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.config.experiment import check_experiment
from sia_runner.proposers import recipe_space
from sia_runner.proposers.recipe_space import Space, Variant
from sia_runner.records import OutcomeKind
from sia_runner.system import bundled_folder
from tests.config.test_experiment import composed, faults
from tests.conftest import ROOT

pytest.importorskip("aiohttp", reason="NOT CHECKED: aiohttp is not installed (pip install 'sia-runner[models]')")
from tests.provider import Answer, ProviderServer, Status

TASK = bundled_folder("tasks") / "sentences"
SPACE = cast(Space, recipe_space.load_space(TASK / "with_model" / "recipes"))
REFERENCE = (TASK / "with_model" / "reference" / "target_agent.py").read_text(encoding="utf-8")
RULES = {"topic": "river", "include": "cold", "exactly": 7, "first": "The", "last": "night", "mark": "!", "avoid": "b"}
GOOD = "The cold river sang through the night!"
REQUEST = (
    'Write one sentence about a river. It must contain the word "cold", have exactly 7 words, begin with the word '
    '"The", end with the word "night", end with "!" and not use the letter "b".'
)


def module(path):
    spec = spec_from_file_location(f"sentences_{path.stem}", path)
    assert spec and spec.loader
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


VERIFIER, COMPOSE = module(TASK / "verifier.py"), module(TASK / "recipes" / "compose.py")
CHOOSE, REPAIR = (module(TASK / "with_model" / "recipes" / f"{name}.py") for name in ("choose", "repair"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """All questions with their rules, from the task's script."""
    folder = tmp_path_factory.mktemp("made")
    command = [sys.executable, "-I", str(TASK / "make_data.py"), "--out", str(folder)]
    subprocess.run(command, check=True, timeout=60)

    def read(name):
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    tested = [row | {"answer": key["answer"]} for row, key in zip(read("test"), read("answers"), strict=True)]
    assert (len(read("labelled")), len(tested)) == (800, 400)
    return read("labelled") + tested


# --- the data -----------------------------------------------------------------------------------------------


def test_questions_differ_and_levels_are_even(rows):
    assert len({row["request"] for row in rows}) == 1200
    assert {level: sum(row["level"] == level for row in rows) for level in "12345"} == dict.fromkeys("12345", 240)


def test_every_rule_stands_in_the_request_and_all_can_be_obeyed_at_once(rows):
    for row in rows:
        rules = json.loads(row["answer"])
        assert COMPOSE.read_rules(row["request"]) == {kind: str(value) for kind, value in rules.items()}
        assert VERIFIER.judge(COMPOSE.sentence(row["request"]), rules) is OutcomeKind.CORRECT, row


def test_there_are_seven_kinds_of_rules_besides_the_topic(rows):
    kinds = {kind for row in rows for kind in json.loads(row["answer"])}
    assert kinds == set(RULES) | {"at_most"}


# --- the verifier -------------------------------------------------------------------------------------------


def test_a_sentence_that_obeys_all_rules_is_right():
    assert VERIFIER.judge(GOOD, RULES) is OutcomeKind.CORRECT
    assert VERIFIER.judge(f"  {GOOD}\n", RULES) is OutcomeKind.CORRECT


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The cold stream sang through the night!", "topic"),
        ("The deep river sang through the night!", "include"),
        ("The cold river softly sang through the night!", "exactly"),
        ("Our cold river sang through the night!", "first"),
        ("The cold river sang through the evening!", "last"),
        ("The cold river sang through the night.", "mark"),
        ("The cold river bent through the night!", "avoid"),
    ],
)
def test_each_rule_can_be_broken_alone(text, kind):
    words = VERIFIER.words_of(text)
    assert words and VERIFIER.broken(text, words, RULES) == [kind]
    assert VERIFIER.judge(text, RULES) is OutcomeKind.WRONG


def test_at_most_is_a_bound():
    rules = {"topic": "river", "at_most": 7}
    assert VERIFIER.judge(GOOD, rules) is OutcomeKind.CORRECT
    assert VERIFIER.judge(GOOD, rules | {"at_most": 6}) is OutcomeKind.WRONG


@pytest.mark.parametrize(
    "text",
    [
        "The cold river. It sang through the night!",  # two sentences
        "The cold river\nsang through the night!",  # two lines
        "the cold river sang through the night!",  # no capital
        "The cold river sang through the night",  # no mark
        "Night!",
        "The river river sang cold night night!",  # words that follow themselves
        "The cold a the cold a the cold a the cold night!",  # four times
        "The cold river sng thrgh th night!",  # no vowels
        "The c\u043eld river sang through the night!",  # a letter that looks like ours
        "The co\u200bld river sang through the night!",  # a letter that nobody sees
        "The cold river sang <!-- --> the night!",
        "**The cold river sang through the night!**",
        f"The {'o' * 21} cold river night!",
        "The " + "cold river sang through a night and " * 20 + "night!",
        'Sure, here is one: "The cold river sang through the night!" Enjoy',
    ],
)
def test_what_is_no_plain_sentence_is_invalid(text):
    assert VERIFIER.judge(text, {"topic": "river"}) is OutcomeKind.INVALID_FORMAT


@given(st.text(max_size=600))
def test_any_text_gets_a_verdict(text):
    assert VERIFIER.judge(text, RULES) in (OutcomeKind.CORRECT, OutcomeKind.WRONG, OutcomeKind.INVALID_FORMAT)


def test_a_question_counts_once_and_the_rest_is_not_answered(tmp_path):
    answers = {name: json.dumps({"topic": "river"}) for name in ("0", "1", "2", "3")}
    with (tmp_path / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        table = [("id", "answer"), ("0", GOOD), ("1", GOOD), ("1", GOOD), ("2", ""), ("9", GOOD)]
        csv.writer(stream).writerows(table)
    outcomes = {outcome.unit: outcome for outcome in VERIFIER.verify(tmp_path, answers)}
    assert {unit: (o.kind.value, o.value) for unit, o in outcomes.items()} == {
        "0": ("correct", 1.0),
        "1": ("invalid_format", 0.0),
    }


# --- the programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [CHOOSE, REPAIR], ids=["choose", "repair"])
def test_a_harness_checks_rules_as_the_verifier_does(rows, program):
    texts = [COMPOSE.sentence(row["request"]) for row in rows[::12]] + [GOOD, "No."]
    for row in rows[::60]:
        for text in texts:
            right = VERIFIER.judge(text, json.loads(row["answer"])) is OutcomeKind.CORRECT
            assert (program.broken_rules(row["request"], text) == []) == right, (row, text)


@pytest.mark.parametrize("name", ["few_shot", "choose", "repair"])
def test_the_examples_obey_their_rules_and_are_no_questions(rows, name):
    program = module(TASK / "with_model" / "recipes" / f"{name}.py")
    for request, sentence in program.EXAMPLES:
        assert CHOOSE.broken_rules(request, sentence) == [] and VERIFIER.words_of(sentence)
        assert request not in {row["request"] for row in rows}


def run(program, folder, reply):
    """Answers by id, and the requests. `reply(messages, how many calls there were before)` answers."""
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "level", "request"), ("7", "5", REQUEST)])
    (folder / "target_agent.py").write_text(program, encoding="utf-8")
    before: list[int] = []

    def script(request):
        before.append(1)
        return reply(request.messages, len(before) - 1)

    with ProviderServer(script) as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "test-key", "SIA_MODEL": "scripted"}
        command = [sys.executable, "-I", str(folder / "target_agent.py")]
        command += ["--dataset_dir", str(folder), "--working_dir", str(folder)]
        environment = {"PATH": os.environ["PATH"], **env}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        requests = list(server.requests)
    with (folder / "submission.csv").open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row["answer"] for row in csv.DictReader(stream)}, requests


def recipe(name, **constants):
    variant = SPACE.recipes[name].default()
    return SPACE.program(Variant(name, {**variant.constants, **constants}))


def test_the_start_asks_the_bare_request_once_and_answers_the_first_line(tmp_path):
    answers, (request,) = run(REFERENCE, tmp_path, lambda *_: Answer(f"\n{GOOD}\nWhat else?"))
    assert answers == {"7": GOOD} and request.body["user"] == "7"
    assert [message["content"] for message in request.messages] == [REQUEST]


@pytest.mark.parametrize("name", ["few_shot", "choose", "repair"])
def test_examples_come_before_the_request(tmp_path, name):
    answers, requests = run(recipe(name, SHOTS=2), tmp_path, lambda *_: Answer(GOOD))
    assert answers == {"7": GOOD}
    assert [message["role"] for message in requests[0].messages] == ["system", *["user", "assistant"] * 2, "user"]


def test_of_several_samples_the_one_that_breaks_fewest_rules_is_taken(tmp_path):
    replies = ["The river sang.", GOOD, "The cold river slept."]
    answers, requests = run(recipe("choose", SAMPLES=3), tmp_path, lambda _, n: Answer(replies[n]))
    assert answers == {"7": GOOD} and len(requests) == 3


def test_faults_are_named_to_the_model_and_only_what_is_better_is_taken(tmp_path):
    worse = "The cold river slept."
    replies = ["The cold river bent through the night!", worse, GOOD]
    answers, requests = run(recipe("repair", REPAIRS=2), tmp_path, lambda _, n: Answer(replies[n]))
    assert answers == {"7": GOOD}
    assert 'it uses the letter "b"' in requests[1].messages[-1]["content"]
    answers, requests = run(recipe("repair", REPAIRS=1), tmp_path, lambda _, n: Answer([GOOD, worse][n]))
    assert answers == {"7": GOOD} and len(requests) == 1, "nothing is wrong with it"


def test_a_call_that_fails_leaves_its_question_open(tmp_path):
    for program in (REFERENCE, recipe("few_shot"), recipe("instruct")):
        answers, _ = run(program, tmp_path, lambda *_: Status(400))
        assert answers == {"7": ""}


def test_programs_load_no_package():
    for program in (REFERENCE, *(one.program for one in SPACE.recipes.values())):
        names = [
            line.split()[1].split(".")[0] for line in program.splitlines() if line.startswith(("import ", "from "))
        ]
        assert set(names) <= sys.stdlib_module_names and "train.csv" not in program


# --- the runner ---------------------------------------------------------------------------------------------


def test_a_policy_that_is_warmed_on_gold_answers_is_refused():
    (line,) = faults("task=sentences", "trainer=grpo")
    assert "target_agent.policy.base=tiny" in line and "policy=smollm2" in line
    check_experiment(composed("task=sentences", "trainer=grpo", "policy=smollm2"))


def test_without_a_model_it_is_a_run_of_its_own_and_the_review_says_what_that_scores(cli):
    done = cli("task=sentences", "max_gen=2")
    assert done.returncode == 0, done.stderr
    assert cli.summary["mode"] == "SIA-H, no model" and cli.summary["best"]["test"]["value"] == 1.0
    review = subprocess.run(
        [sys.executable, "-m", "sia_runner", "tasks", "check", "sentences"], capture_output=True, text=True, cwd=ROOT
    )
    assert review.returncode == 0, review.stdout + review.stderr
    assert "noted: without a model: recipe compose scores 1.000 on dev and val" in review.stdout
