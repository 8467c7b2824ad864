"""An OpenAI chat completion request as an Ask, and an Answer as its response."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from sia_runner.models import sse
from sia_runner.models.policy.ask import Answer, Ask
from sia_runner.models.refusals import bad_request, flag
from sia_runner.models.wire import Asked, Body, dumps
from sia_runner.schema.training import PolicySpec

# What would change the answer if it were served: better refused by name than left out.
_NOT_SERVED = (
    "tools",
    "functions",
    "logit_bias",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "ignore_eos",
    "chat_template_kwargs",
    "reasoning_effort",
)
_NEUTRAL = {"repetition_penalty": 1, "top_k": -1}  # says in some clients' words that nothing is asked for
_MOST_STOPS, _LONGEST_STOP = 16, 256  # strings, and characters of one


def ask_of(asked: Asked, spec: PolicySpec) -> Ask:
    """Raises Failed (bad_request)."""
    body = asked.body
    for name in _NOT_SERVED:
        if body.get(name) and body[name] != _NEUTRAL.get(name):
            raise bad_request(f"{name} is not served by the policy")
    wanted = body.get("response_format")
    if wanted is not None and wanted != {"type": "text"}:
        raise bad_request("response_format is not served by the policy, which answers with text")
    return Ask(
        messages=body["messages"],
        max_tokens=asked.output_tokens,
        temperature=number(body, "temperature", spec.temperature, 2.0),
        top_p=number(body, "top_p", 1.0, 1.0),
        seed=_seed(body.get("seed")),
        stop=stops(body.get("stop"), "stop"),
    )


def pieces_of(asked: Asked, answer: Answer, decode: Callable[[Sequence[int]], str]) -> list[bytes]:
    """The response: one JSON, or the events of a stream. `decode` shows a token as text."""
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.body["model"]}
    logprobs = _logprobs(answer, decode) if flag(asked.body, "logprobs") else None
    usage, reason = _usage(answer), answer.sampled.finish_reason
    if not asked.stream:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        return [dumps(head | {"object": "chat.completion", "choices": [choice], "usage": usage})]
    head["object"] = "chat.completion.chunk"
    delta = {"role": "assistant", "content": answer.text}
    said = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
    ended = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}
    chunks = [{"choices": [said]}, {"choices": [ended]}, {"choices": [], "usage": usage}]
    return [*(sse.event(dumps(head | chunk)) for chunk in chunks), sse.event(b"[DONE]")]


def number(body: Body, name: str, otherwise: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise bad_request(f"{name} must be a number from 0 to {most:g}")
    return float(value)


def stops(value: Any, name: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if given is None:
        return ()
    if (
        not isinstance(given, list)
        or len(given) > _MOST_STOPS
        or not all(isinstance(one, str) and 0 < len(one) <= _LONGEST_STOP for one in given)
    ):
        raise bad_request(f"{name} must be at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} characters")
    return tuple(given)


def _seed(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise bad_request("seed must be a whole number")
    return value


def _usage(answer: Answer) -> dict[str, int]:
    used, made = len(answer.sampled.prompt_ids), len(answer.sampled.completion_ids)
    return {"prompt_tokens": used, "completion_tokens": made, "total_tokens": used + made}


def _logprobs(answer: Answer, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    sampled = answer.sampled
    tokens = [
        {"token": (text := decode([token])), "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for token, logprob in zip(sampled.completion_ids, sampled.logprobs, strict=True)
    ]
    return {"content": tokens, "refusal": None}
