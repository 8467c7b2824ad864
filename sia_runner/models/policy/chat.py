"""The conversion of messages to token ids and of completions back to text."""

import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

from sia_runner.models.failures import Failed
from sia_runner.models.policy.ask import Messages
from sia_runner.models.refusals import bad_request

# The tiny model's template: each message between the mark of its role and the end mark, then the answer's mark.
# "12+7=" from the user becomes <|user|>12+7=<|end|><|assistant|>, and the answer is 19<|end|>.
ROLES = ("system", "user", "assistant", "tool")
PAD, END = "<|pad|>", "<|end|>"
MARKS = (PAD, END, *(f"<|{role}|>" for role in ROLES))
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '" + END + "' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_DAY = date(2026, 1, 1)  # fixed: some templates contain today's date, and a run resumed tomorrow needs the same prompts
_NOW = re.compile(r"""strftime_now\((["'])(.*?)\1\)""")
_FINAL = "<|channel|>final<|message|>"  # gpt-oss's harmony format: reasoning comes before, in other channels


class Chat:
    """A tokenizer and the model's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = _NOW.sub(lambda call: repr(_DAY.strftime(call[2])), tokenizer.get_chat_template())
        self._harmony = "<|channel|>" in tokenizer.get_vocab()

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Return the conversation's token ids up to where the answer begins. Raises Failed (bad_request)."""
        try:
            text = self._tokenizer.apply_chat_template(
                _plain(messages), chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # noqa: BLE001 - a template is a program: it may refuse an order of roles
            raise bad_request(f"the model's chat template refuses the messages: {error}") from None
        return self._tokenizer(text, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]  # its length is checked by us

    def prompt_within(self, messages: Messages, context: int) -> list[int]:
        """Return `prompt_ids`, checked to leave space for at least one token in `context`.

        Raises Failed (bad_request, in OpenAI's words) if the prompt is too long.
        """
        ids = self.prompt_ids(messages)
        if len(ids) >= context:
            raise Failed(
                "bad_request",
                f"This model's maximum context length is {context} tokens; the messages have {len(ids)}, and the "
                "answer needs at least one",
                status=400,
                sent=False,
                code="context_length_exceeded",
            )
        return ids

    def text(self, ids: Sequence[int], stop: Sequence[str]) -> str:
        """Return the answer to show: before the first stop string, without special tokens."""
        visible = self._visible(ids)
        return visible[: min((index for mark in stop if (index := visible.find(mark)) >= 0), default=len(visible))]

    def stopped(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        """Return a function that tests completion tokens for stop strings.

        A token has at least one byte, so it decodes only the last few: a stop string that was just completed lies in
        them.
        """
        longest = max((len(mark.encode()) + 1 for mark in stop), default=0)  # a decoder may eat a leading space

        def ends(ids: Sequence[int]) -> bool:
            tail = self._tokenizer.decode(list(ids[-longest:]), skip_special_tokens=True)
            return any(mark in tail for mark in stop) and any(mark in self._visible(ids) for mark in stop)

        return ends if longest else (lambda _: False)

    def _visible(self, ids: Sequence[int]) -> str:
        if self._harmony:
            marked = self._tokenizer.decode(list(ids), skip_special_tokens=False)
            _, marker, final = marked.rpartition(_FINAL)
            if not marker:
                return ""
            return final.partition("<|return|>")[0].partition("<|end|>")[0]
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def _plain(messages: Messages) -> list[dict[str, str]]:
    return [{"role": _role(message.get("role")), "content": _content(message.get("content"))} for message in messages]


def _role(role: Any) -> str:
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise bad_request(f"messages of role {role!r} are not served here, only of {', '.join(ROLES)}")
    return role


def _content(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content if content is not None else ""}]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise bad_request("the policy reads text only: a message's content is a string or a list of text parts")
    return "".join(text for text in texts if text is not None)
