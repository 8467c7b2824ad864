"""A proposal cut by a kill is replayed from what was recorded, and paid once."""

from dataclasses import replace

import pytest

from sia_runner.experiment.workbench import RecordedReplies
from sia_runner.records import ModelReply, ToolCall, Usage

REPLY = ModelReply(
    "text ü", (ToolCall("1", "read", '{"path": "x"}'),), "tool_calls", {"role": "assistant"}, Usage(0.5, 7, 1)
)


class Model:
    """Answers with a running number and counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return replace(REPLY, text=f"answer {self.asked}")


def talk(path, requests):
    model, dialogue = Model(), RecordedReplies(path)
    return [dialogue.answer({"messages": [request]}, model).text for request in requests], model.asked


def test_what_was_answered_is_given_again_unasked_and_equal(tmp_path):
    path = tmp_path / "dialogue.jsonl"
    assert RecordedReplies(path).answer({"a": 1}, lambda: REPLY) == REPLY
    assert RecordedReplies(path).answer({"a": 1}, Model()) == REPLY


def test_a_longer_conversation_asks_only_for_what_is_new(tmp_path):
    path = tmp_path / "dialogue.jsonl"
    assert talk(path, ["a", "b"]) == (["answer 1", "answer 2"], 2)
    assert talk(path, ["a", "b", "c"]) == (["answer 1", "answer 2", "answer 1"], 1)
    assert talk(path, ["a", "b", "c"])[1] == 0


def test_from_the_first_request_that_differs_everything_is_asked_anew(tmp_path):
    path = tmp_path / "dialogue.jsonl"
    talk(path, ["a", "b", "c"])
    assert talk(path, ["a", "x", "c"])[1] == 2
    assert talk(path, ["a", "x", "c"])[1] == 0


@pytest.mark.parametrize("cut", [1, 10, 50])
def test_a_line_cut_by_a_kill_is_asked_again_and_written_over(tmp_path, cut):
    path = tmp_path / "dialogue.jsonl"
    talk(path, ["a", "b"])
    path.write_bytes(path.read_bytes()[:-cut])
    assert talk(path, ["a", "b"])[1] == 1
    assert talk(path, ["a", "b"])[1] == 0
