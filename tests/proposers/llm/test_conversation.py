"""What is sent stays below its limit, keeps its beginning and its end, and stays a valid conversation."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from sia_runner.proposers.llm_conversation import Conversation, valid_message
from sia_runner.records import ModelReply, ToolCall, Usage
from tests.proposers.llm.scripted import check_pairs, said

LIMIT = 16 * 1024
TOOLS = [{"type": "function", "function": {"name": "t", "description": "d" * 500, "parameters": {}}}]


def conversation() -> Conversation:
    return Conversation("SYSTEM", "TASK", TOOLS, LIMIT)


def size(talk: Conversation) -> int:
    return len(json.dumps({"messages": talk.messages, "tools": talk.tools}, ensure_ascii=False).encode())


def say(talk: Conversation, reply: ModelReply, *answers: str, turn: int = 1) -> None:
    message, calls = valid_message(reply, turn)
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": answer}
        for call, answer in zip(calls, answers, strict=True)
    ]
    talk.add(message, results or [{"role": "user", "content": "go on"}])


def test_below_the_limit_nothing_is_cut():
    talk = conversation()
    for n in range(5):
        say(talk, said(f"thought {n}", ("t", {"n": n})), f"result {n} " + "r" * 1000)
    assert [m["content"] for m in talk.messages][:2] == ["SYSTEM", "TASK"]
    assert sum(len(str(m["content"])) > 1000 for m in talk.messages) == 5


def test_the_oldest_results_go_first_and_the_models_own_words_stay():
    talk = conversation()
    for n in range(6):
        say(talk, said(f"thought {n}" + "t" * 200, ("t", {"n": n})), f"result {n} " + "r" * 3000)
    shown = [str(m["content"]) for m in talk.messages]
    assert "[3009 characters, no longer shown]" in shown[3]
    assert shown[-1].startswith("result 5 rrr")
    assert all(f"thought {n}ttt" in " ".join(shown) for n in range(6))


def test_cuts_leave_room_so_that_the_beginning_is_not_changed_at_every_turn():
    talk, changes, before = conversation(), 0, []
    for n in range(40):
        say(talk, said("", ("t", {"n": n})), "r" * 1000, turn=n)
        changes += talk.messages[: len(before)] != before
        before = talk.messages
    assert 0 < changes <= 16


def test_whole_files_in_old_calls_are_cut_when_results_and_texts_are_not_enough():
    talk = conversation()
    for n in range(8):
        say(talk, said("", ("t", {"path": "harness/x.py", "content": "c" * 4000})), "ok", turn=n)
    assert size(talk) <= LIMIT
    first = json.loads(talk.messages[2]["tool_calls"][0]["function"]["arguments"])
    assert first == {"path": "harness/x.py", "content": "[4000 characters, no longer shown]"}


def test_a_newest_message_that_is_too_large_alone_is_cut_itself():
    talk = conversation()
    say(talk, said("", *[("t", {})] * 16), *["ä\n\0" * 20_000] * 16)
    assert size(talk) <= LIMIT
    assert "bytes left out" in talk.messages[-1]["content"]
    say(talk, said("x" * 100_000, ("t", {"content": "c" * 100_000})), "small")
    assert size(talk) <= LIMIT


texts = st.builds(lambda text, times: text * times, st.text(max_size=8), st.integers(0, 6000))
exchanges = st.lists(st.tuples(texts, st.lists(st.tuples(texts, texts), max_size=6)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(exchanges)
def test_every_request_is_below_the_limit_and_every_call_has_its_result(script):
    talk = conversation()
    for turn, (text, pairs) in enumerate(script):
        reply = said(text, *[("t", {"content": argument}) for argument, _ in pairs])
        say(talk, reply, *[answer for _, answer in pairs], turn=turn)
        assert size(talk) <= LIMIT
        assert [m["content"] for m in talk.messages[:2]] == ["SYSTEM", "TASK"]
        assert talk.messages[2]["role"] == "assistant"
        check_pairs(talk.messages)


def test_arguments_that_are_no_object_are_sent_back_as_one():
    for written in ("", "{", "[1]", '"x"', "null", '{"a": NaN}', "[" * 100_000, '{"a": "\\ud800"}'):
        call = ToolCall("a", "t", written)
        message, (kept,) = valid_message(ModelReply("", (call,), "tool_calls", {}, Usage()), 1)
        assert isinstance(json.loads(message["tool_calls"][0]["function"]["arguments"]), dict)
        json.dumps(message, ensure_ascii=False, allow_nan=False).encode()
        assert kept.arguments == written


def test_an_empty_answer_is_sent_back_as_a_text():
    message, calls = valid_message(ModelReply("", (), "stop", {"role": "assistant", "content": None}, Usage()), 1)
    assert (message, calls) == ({"role": "assistant", "content": "(nothing)"}, [])
