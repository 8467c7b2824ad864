"""Model calls as conversations, and their ATIF documents, which Harbor's own model reads."""

import json

import pytest

from sia_runner.gateway.session import CallRecord, TokenUsage, append_record
from sia_runner.records import SampledCall
from sia_runner.results.conversations import HarnessRunExport, atif_document, read_questions, write_atif
from tests.results import writing


def trajectory_model():
    """Harbor's model of a trajectory, which forbids what ATIF does not have: pip install --no-deps harbor."""
    return pytest.importorskip("harbor.models.trajectories", reason="harbor is not installed").Trajectory


def record(folder, request, response, question="id-q1", **fields):
    folder.mkdir(parents=True, exist_ok=True)
    call = CallRecord("c", 1.8e9, "gen_1", "select", question, 0, "openai", "m", model="model-1", finish_reason="stop")
    call.request, call.response, call.usage = request, response, TokenUsage(11, 5, 3)
    for name, value in fields.items():
        setattr(call, name, value)
    append_record(folder / "trajectories.jsonl", call)


def only_question(run):
    (question, *_) = [each for each in read_questions(run, "gen_1") if each.calls]
    return question


def document(run, at=0):
    conversations = only_question(run).conversations()
    agent = {"name": "h", "version": "gen_1"}
    return atif_document(conversations[at], session="s", name="t", agent=agent, extra={})


USER = {"role": "user", "content": "how many?"}
LOOK_UP = {"id": "t1", "name": "look_up", "arguments": '{"key": "a"}'}
OPENAI_CALL = {"id": "t1", "type": "function", "function": {"name": "look_up", "arguments": '{"key": "a"}'}}


def test_a_call_that_goes_on_with_an_earlier_one_is_of_its_conversation(tmp_path):
    writing.scores(tmp_path, 1, {"q1": "correct"})
    folder = tmp_path / "gen_1"
    record(folder, {"messages": [USER]}, {"text": "2", "tool_calls": []})
    record(folder, {"messages": [USER]}, {"text": "3", "tool_calls": []})  # the same prompt once more
    again = [USER, {"role": "assistant", "content": "2"}, {"role": "user", "content": "sure?"}]
    record(folder, {"messages": again}, {"text": "yes", "tool_calls": []})
    conversations = only_question(tmp_path).conversations()
    assert [[call.reply.text for call in each] for each in conversations] == [["2", "yes"], ["3"]]
    steps = document(tmp_path)["steps"]
    assert [(s["source"], s["message"]) for s in steps] == [
        ("user", "how many?"), ("agent", "2"), ("user", "sure?"), ("agent", "yes"),
    ]  # fmt: skip
    assert [s["step_id"] for s in steps] == [1, 2, 3, 4]


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_what_a_tool_returned_stands_at_the_step_that_called_it(tmp_path, api):
    writing.scores(tmp_path, 1, {"q1": "correct"})
    tool = {"name": "look_up", "description": "looks", "parameters": {"type": "object", "properties": {"key": {}}}}
    if api == "openai":
        head = {"tools": [{"type": "function", "function": tool}]}
        first = [{"role": "developer", "content": "be brief"}, USER]
        then = [
            {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
            {"role": "tool", "tool_call_id": "t1", "content": [{"type": "text", "text": "seven"}]},
        ]
    else:
        head = {"system": "be brief", "tools": [{"name": "look_up", "input_schema": tool["parameters"]}]}
        first = [USER]
        use = {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"key": "a"}}
        then = [
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "seven"}]},
        ]
    folder = tmp_path / "gen_1"
    record(folder, head | {"messages": first}, {"text": "", "tool_calls": [LOOK_UP]}, finish_reason="tool_calls")
    record(folder, head | {"messages": first + then}, {"text": "7", "tool_calls": []})
    written = document(tmp_path)
    system, user, calls, answer = written["steps"]
    assert (system["source"], system["message"], user["message"]) == ("system", "be brief", "how many?")
    assert calls["tool_calls"] == [{"tool_call_id": "t1", "function_name": "look_up", "arguments": {"key": "a"}}]
    assert calls["observation"]["results"] == [{"source_call_id": "t1", "content": "seven"}]
    assert answer["message"] == "7" and answer["metrics"]["prompt_tokens"] == 11
    assert written["agent"]["tool_definitions"][0]["function"]["name"] == "look_up"
    assert written["final_metrics"]["total_completion_tokens"] == 10
    trajectory_model().model_validate(written)


def test_a_policys_tokens_are_there_to_train_on(tmp_path):
    writing.scores(tmp_path, 1, {"q1": "correct"})
    sampled = SampledCall((1, 2), (3, 4), (-0.5, -0.25), "stop", "base", "hi")
    record(tmp_path / "gen_1", {"messages": [USER]}, {"text": "hi", "tool_calls": []}, sampled=sampled)
    metrics = document(tmp_path)["steps"][-1]["metrics"]
    assert (metrics["prompt_token_ids"], metrics["completion_token_ids"]) == ([1, 2], [3, 4])
    assert metrics["logprobs"] == [-0.5, -0.25]


def test_a_failed_call_is_a_step_without_an_answer(tmp_path):
    writing.scores(tmp_path, 1, {"q1": "rate_limited"})
    record(tmp_path / "gen_1", {"messages": [USER]}, {}, error={"kind": "rate_limited", "message": "slow\ndown"})
    step = document(tmp_path)["steps"][-1]
    assert (step["message"], step["extra"]["error"]) == ("", "rate_limited: slow down")


HOSTILE = [
    {"messages": "none"},
    {"messages": [7, None, {"role": ["user"], "content": {"a": 1}}, {"role": "tool", "content": "x"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": "no"}, {"id": 1, "function": {"arguments": 3}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [1]}]}], "tools": [1, {"name": ""}]},
    {"messages": [{"role": "user", "content": "\x1b[31m red \u202e" + "long " * 50_000}], "system": [{"text": "s"}]},
    {"messages": [USER], "tools": [{"function": {"name": "f", "parameters": [1]}}]},
    "the beginning of a long request ... [cut]",
]


@pytest.mark.parametrize("request_body", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_harness_sent_becomes_a_valid_bounded_document(tmp_path, request_body):
    run = tmp_path / "run"
    writing.scores(run, 1, {"q1": "wrong"})
    odd = {"text": "a\x00b", "tool_calls": [{"id": None, "name": 3, "arguments": "[1"}]}
    record(run / "gen_1", request_body, odd, seconds=1e300)
    export = HarnessRunExport(run, "gen_1", "smoke", "accuracy", None, "val", "first")
    assert write_atif(export, tmp_path / "atif") == 1
    text = (tmp_path / "atif" / "000001.json").read_text()
    assert len(text) < 100_000 and "\\u001b" not in text and "\\u0000" not in text and "\\u202e" not in text
    written = json.loads(text)
    assert written["steps"][-1]["tool_calls"][0]["arguments"] == {"text": "[1"}
    trajectory_model().model_validate(written)


def test_the_index_has_every_question_and_calls_that_named_none(tmp_path):
    run = tmp_path / "run"
    writing.scores(run, 1, {"q1": "correct", "q2": "wrong"})
    record(run / "gen_1", {"messages": [USER]}, {"text": "2", "tool_calls": []})
    record(run / "gen_1", {"messages": [USER]}, {"text": "3", "tool_calls": []}, question=None)
    splits = {"q1": "dev", "q2": "val"}
    export = HarnessRunExport(run, "gen_1", "smoke", "accuracy", None, "val", "first", splits=splits)
    assert write_atif(export, tmp_path / "atif") == 2
    rows = [json.loads(line) for line in (tmp_path / "atif" / "index.jsonl").read_text().splitlines()]
    assert [(row["question"], row["split"], row["outcome"], row["value"], row["files"]) for row in rows] == [
        ("q1", "dev", "correct", 1.0, ["000001.json"]),
        ("q2", "val", "wrong", 0.0, []),
        (None, None, "no question named", None, ["000003.json"]),
    ]
