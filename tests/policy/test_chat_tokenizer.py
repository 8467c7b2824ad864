"""From messages to token ids and back."""

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")

from sia_runner.policy.base_model import ChatTokenizer
from sia_runner.policy.tiny import learn_tokenizer
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import PolicyRequest
from tests.policy.checkpoints import SUMS


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(SUMS, 300, 64)


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ChatTokenizer(tokenizer)


def ids_of(chat, content, role="user"):
    return chat.prompt_ids([{"role": role, "content": content}])


@pytest.mark.parametrize(
    ("role", "content"),
    [("user", [{"type": "image_url", "image_url": {"url": "data:x"}}]), ("user", 3), ("judge", "hm"), (None, "hm")],
)
def test_messages_that_are_no_text_of_a_known_role_are_refused(role, content, chat):
    with pytest.raises(CallError, match="text only|messages of role") as refused:
        ids_of(chat, content, role)
    assert (refused.value.kind, refused.value.status) == ("bad_request", 400)


def test_parts_of_a_message_are_one_text(chat):
    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "2="}]
    assert ids_of(chat, parts) == ids_of(chat, "1+2=")


def test_a_developer_is_the_system(chat):
    assert ids_of(chat, "add", "developer") == ids_of(chat, "add", "system")


def test_a_template_that_refuses_the_messages_is_a_bad_request(tokenizer):
    strict = learn_tokenizer(SUMS, 300, 64)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(CallError, match="alternate"):
        ids_of(ChatTokenizer(strict), "hi")


def test_a_template_is_told_the_same_date_every_day():
    dated = learn_tokenizer(SUMS, 300, 64)
    dated.chat_template = "{{ strftime_now('%Y-%m-%d') }}"
    assert dated.decode(ids_of(ChatTokenizer(dated), "hi")) == "2026-01-01"


@pytest.mark.parametrize("stop", ["7=", "=", "人", "a stop of many words"])
def test_a_stop_string_is_found_with_the_token_that_completes_it(stop, chat, tokenizer):
    ids = tokenizer(f"12+{stop} and on")["input_ids"]
    stopped = chat.stopped([stop])
    first = next(length for length in range(1, len(ids) + 1) if stopped(ids[:length]))
    assert stop in tokenizer.decode(ids[:first]) and stop not in tokenizer.decode(ids[: first - 1])
    assert chat.text(ids, [stop]) == "12+"


def test_the_first_of_several_stop_strings_ends_the_text(chat, tokenizer):
    assert chat.text(tokenizer("ab12cd")["input_ids"], ["cd", "12"]) == "ab"


def test_of_gpt_oss_only_the_final_channel_is_shown_and_searched():
    harmony = learn_tokenizer(SUMS, 300, 64)
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|return|>"]
    harmony.add_special_tokens({"additional_special_tokens": [*harmony.all_special_tokens, *marks]})
    chat = ChatTokenizer(harmony)
    thought = "<|channel|>analysis<|message|>19 maybe<|end|><|start|>assistant"
    whole = harmony(thought + "<|channel|>final<|message|>It is 19<|return|>")["input_ids"]
    assert chat.text(whole, ()) == "It is 19"
    assert chat.text(harmony(thought)["input_ids"], ()) == "", "cut while it was thinking"
    stopped = chat.stopped(["19"])
    assert not stopped(harmony("<|channel|>analysis<|message|>19")["input_ids"])
    assert stopped(whole[:-1])


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
OFFERING = (
    "{# tools and reasoning_effort #}{{ reasoning_effort or 'medium' }};"
    "{% if tools %}{% for one in tools %}{{ one.function.name }};{% endfor %}{% endif %}"
    "{% for one in messages %}{{ one.role }}:{{ one.content }}"
    "{% for call in one.tool_calls or () %}[{{ call.function.name }} {{ call.function.arguments.city }}]{% endfor %};"
    "{% endfor %}"
)


def offering(template=OFFERING, marks=()):
    tokenizer = learn_tokenizer(SUMS, 300, 64)
    tokenizer.chat_template = template
    if marks:
        tokenizer.add_special_tokens({"additional_special_tokens": [*tokenizer.all_special_tokens, *marks]})
    return tokenizer, ChatTokenizer(tokenizer)


def test_tools_and_reasoning_effort_reach_the_template_with_the_calls_so_far():
    tokenizer, chat = offering()
    called = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    messages = [
        {"role": "user", "content": "rain?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "yes", "tool_call_id": "1"},
    ]
    text = tokenizer.decode(chat.prompt_ids(messages, 999, [TOOL], "high"))
    assert text == "high;weather;user:rain?;assistant:[weather Bern];tool:yes;"
    assert tokenizer.decode(ids_of(chat, "hi")) == "medium;user:hi;", "without them the prompt is as before"


@pytest.mark.parametrize(
    ("options", "name"), [(([TOOL], None), "tools"), (((), "low"), "reasoning_effort")], ids=["tools", "effort"]
)
def test_what_a_template_does_not_use_is_refused_by_name(options, name):
    _, chat = offering("{# tools reasoning_effort tool_calls #}{{ messages[0].content }}")
    with pytest.raises(CallError, match=f"{name} is not served by the policy: .*template"):
        chat.prompt_ids([{"role": "user", "content": "hi"}], 999, *options)
    called = {"role": "assistant", "content": "", "tool_calls": [TOOL]}
    with pytest.raises(CallError, match="tool_calls is not served"):
        chat.prompt_ids([called, {"role": "user", "content": "hi"}])


def request(**changes):
    return PolicyRequest((), 9, **changes)


def test_a_call_in_harmony_is_a_call_and_no_text():
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|return|>", "<|call|>", "<|constrain|>"]
    tokenizer, chat = offering(marks=marks)
    thought = "<|channel|>analysis<|message|>to=functions.x <|end|><|start|>assistant"
    call = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Bern"}<|call|>'
    ids = tokenizer(thought + call)["input_ids"]
    text, (one,) = chat.answer(ids, request(tools=(TOOL,)))
    assert (text, one["name"], one["arguments"]) == ("", "weather", '{"city": "Bern"}') and one["id"]
    assert chat.answer(ids, request()) == ("", ()), "nothing was offered"
    final = tokenizer(thought + "<|channel|>final<|message|>dry<|return|>")["input_ids"]
    assert chat.answer(final, request(tools=(TOOL,))) == ("dry", ())


def test_a_call_between_tags_is_taken_out_of_the_text():
    tokenizer, chat = offering()
    said = 'So.<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    text, (one,) = chat.answer(tokenizer(said)["input_ids"], request(tools=(TOOL,)))
    assert (text, one["name"], one["arguments"]) == ("So.", "weather", '{"city": "Bern"}')
    broken = "<tool_call>{not json}</tool_call>"
    assert chat.answer(tokenizer(broken)["input_ids"], request(tools=(TOOL,))) == (broken, ())
