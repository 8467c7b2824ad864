"""Tasks of Inspect AI: their samples are the questions, and our values are those of Inspect's own evaluation."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from sia_runner.config.task import InspectTaskConfig
from sia_runner.records import OutcomeKind
from sia_runner.tasks.inspect_task import InspectTask
from sia_runner.tasks.protocol import TaskError
from tests.provider import Answer, ProviderServer
from tests.scripts.serving import KEY, use
from tests.tasks.making import read_csv

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

# the first is the example `popularity` of Inspect's repository, whose data its package brings
TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, MemoryDataset, Sample, example_dataset
from inspect_ai.model import ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import Score, accuracy, choice, match, model_graded_fact, scorer
from inspect_ai.solver import generate, multiple_choice, system_message

@task
def popularity():
    fields = FieldSpec(input="question", target="answer_matching_behavior", metadata=["label_confidence"])
    solver = [system_message("Please answer with the word 'Yes' or 'No'."), generate()]
    return Task(dataset=example_dataset(name="popularity", sample_fields=fields), solver=solver, scorer=match())

@task
def letters(count=60):
    samples = [
        Sample(
            input=[ChatMessageSystem(content="be exact"), ChatMessageUser(content=f"even or odd: {n}?")],
            choices=["even", "odd"], target="AB"[n % 2], metadata={"secret": f"gold-{n}"},
        )
        for n in range(count)
    ]
    return Task(dataset=MemoryDataset(samples), solver=multiple_choice(), scorer=choice())

@scorer(metrics=[accuracy()])
def strict(word: str):
    async def score(state, target):
        if "boom" in state.output.completion:
            raise RuntimeError(target.text)
        right = state.output.completion == state.metadata["secret"]
        return Score(value={word: 0.5 if right else 0, "other": 1})
    return score

@task
def parts(word="style"):
    samples = [Sample(input=f"q{n}", target=f"t{n}", metadata={"secret": f"s{n}"}) for n in range(40)]
    return Task(dataset=MemoryDataset(samples), scorer=strict(word))

@task
def graded():
    return Task(dataset=MemoryDataset([Sample(input="q", target="t")] * 40), scorer=model_graded_fact())

@task
def boxed():
    return Task(dataset=MemoryDataset([Sample(input="q", target="t")] * 40), scorer=match(), sandbox="docker")

@task
def unscored():
    return Task(dataset=MemoryDataset([Sample(input="q", target="t")] * 40))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own_tasks.py"
    path.write_text(TASKS)
    return path


def load(file, name, **changes):
    section = {"name": name, "_target_": "sia_runner.tasks.inspect_task.InspectTask"}
    section |= {} if "/" in name else {"file": str(file)}
    section["splits"] = {"dev": 0.2, "val": 0.3, "test": 0.3, "stratify": False}
    task = InspectTask(InspectTaskConfig.model_validate(section | changes), 0, file.parent / "cache")
    task.prepare(lambda _: None)
    return task


def judged(task, tmp_path, answer, purpose="select"):
    """The outcomes by the input of their question; `answer` maps a row of questions.csv to a text."""
    (fold,) = task.rounds(purpose)
    view = task.lay_out(fold, tmp_path / "view", "salt")
    rows = read_csv(view.path / "questions.csv")
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / "submission.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *((row["id"], answer(row)) for row in rows)])
    outcomes = {o.unit: o for o in task.verify(tmp_path / "s", view.keys, OutcomeKind.NO_ANSWER)}
    return {row["input"]: outcomes[view.keys[row["id"]]] for row in rows}


def guess(text):
    return ("Yes", "It is No", "no", "Maybe.")[len(text) % 4]


def test_values_are_those_of_inspects_own_evaluation(file, tmp_path):
    import inspect_ai
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    spec = importlib.util.spec_from_file_location("own_tasks", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def reply(messages, *_):
        output = ModelOutput.from_content("mockllm/model", guess(messages[-1].text))
        return output.model_copy(
            update={"usage": ModelUsage(total_tokens=2)}
        )  # else tokens are counted over the network

    model = get_model("mockllm/model", custom_outputs=reply)
    (log,) = inspect_ai.eval(module.popularity(), model=model, log_dir=str(tmp_path / "logs"), display="none")
    theirs = {sample.input: float(score.value == "C") for sample in log.samples for score in sample.scores.values()}
    ours = judged(load(file, "popularity"), tmp_path, lambda row: guess(row["input"]))
    assert len(ours) > 40 and {text: outcome.value for text, outcome in ours.items()} == {
        text: theirs[text] for text in ours
    }
    assert {outcome.value for outcome in ours.values()} == {0.0, 1.0}


def test_a_choice_is_a_letter_and_no_view_has_what_only_the_scorer_may_know(file, tmp_path):
    task = load(file, "letters", args={"count": 80})
    assert sum(map(len, task.splits().values())) == 80

    def answer(row):
        assert json.loads(row["choices"]) == ["even", "odd"]
        messages = json.loads(row["input"])
        assert [message["role"] for message in messages] == ["system", "user"]
        number = int(messages[1]["content"].split()[-1].rstrip("?"))
        return ("A", " answer: b", "both", "A, B")[number % 4]

    outcomes = judged(task, tmp_path, answer)
    by_answer = {outcome.prediction: outcome.value for outcome in outcomes.values()}
    assert by_answer == {"A": 1.0, " answer: b": 1.0, "both": 0.0, "A, B": 0.0}
    view = "".join(path.read_text() for path in (tmp_path / "view").rglob("*") if path.is_file())
    assert "gold-" not in view and "samples.json" not in view
    asked = read_csv(tmp_path / "view" / "questions.csv")
    assert asked and all(set(row) == {"id", "input", "choices"} for row in asked)


def test_an_answer_that_the_scorer_does_not_take_earns_nothing_and_tells_nothing(file, tmp_path):
    task = load(file, "parts", score="style", args={"word": "style"})
    texts = ["boom", "\ud7ff\u202e", "x" * 200_000, "s1"]
    outcomes = judged(task, tmp_path, lambda row: texts[int(row["input"][1:]) % 4])
    kinds = {outcome.kind for outcome in outcomes.values()}
    assert kinds <= {OutcomeKind.INVALID_FORMAT, OutcomeKind.WRONG, OutcomeKind.PARTIAL}
    for text, outcome in outcomes.items():
        assert len(outcome.prediction) <= 300 and f"t{text[1:]}" not in outcome.prediction
        assert (outcome.kind is OutcomeKind.INVALID_FORMAT) == (int(text[1:]) % 4 == 0)
    assert all(outcome.value in (0.0, 0.5) for outcome in outcomes.values())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("graded", "the task's scorer cannot judge a text here, without a model and a sandbox"),
        ("boxed", "the task runs in a sandbox of Inspect"),
        ("unscored", "the task has no scorer"),
        ("parts", "the scorer gives several values; task.score names one of: style, other"),
        ("nowhere", "defines no task nowhere (task.name)"),
    ],
)
def test_what_cannot_be_a_task_here_is_refused_in_one_line(file, name, problem, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")  # a scorer that asks a model must not find a key
    with pytest.raises(TaskError) as refusal:
        load(file, name)
    assert problem in str(refusal.value) and "\n" not in str(refusal.value)


def test_names_of_packages_and_files_are_checked(file):
    with pytest.raises(TaskError, match=r"task\.file=.*no such file"):
        load(file.with_name("other.py"), "popularity")
    alone = {"name": "popularity", "_target_": "sia_runner.tasks.inspect_task.InspectTask"}
    with pytest.raises(TaskError, match="allowed: package/task"):
        InspectTask(InspectTaskConfig.model_validate(alone), 0, file.parent)
    with pytest.raises(TaskError, match="no installed package has the task no_such_package/task"):
        load(file, "no_such_package/task")


def test_a_scripted_model_answers_a_public_task_through_the_gateway(file, cli):
    def reply(request):
        return Answer(guess(request.last))

    with ProviderServer(reply) as server:
        task = ["task=inspect", "task.name=popularity", f"task.file={file}", "task.gate.questions=2"]
        start = ["meta_agent=replay", f"meta_agent.dir={cli.folder / 'programs'}", "target_agent=model", "max_gen=1"]
        reference = Path(__file__).parents[2] / "tasks" / "inspect" / "with_model" / "reference" / "target_agent.py"
        (cli.folder / "programs" / "gen_1").mkdir(parents=True)
        (cli.folder / "programs" / "gen_1" / "target_agent.py").write_text(reference.read_text())
        done = cli(*task, *start, *use(server.base_url), env=KEY, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    from inspect_ai.dataset import example_dataset

    rows = {row.metadata["question"]: row.metadata for row in example_dataset(name="popularity", sample_fields=_whole)}
    calls = [json.loads(line) for line in (cli.run / "test" / "gen_1" / "trajectories.jsonl").read_text().splitlines()]
    right = 0
    for call in calls:
        question = call["request"]["messages"][-1]["content"]
        end = guess(question).strip(". ").lower()
        right += end.endswith(rows[question]["answer_matching_behavior"].strip().lower())
    test = cli.summary["best"]["test"]
    assert (test["n"], test["value"]) == (len(calls), right / len(calls)) and 0 < right < len(calls)


def _whole(record):
    from inspect_ai.dataset import Sample

    return Sample(input=record["question"], metadata=record)
