"""Checks of a request's body: fields that are refused, and fields that must be valid."""

from collections.abc import Iterable
from typing import Any

from sia_runner.models.failures import Failed
from sia_runner.models.wire import Body

MOST_OUTPUT = 131_072  # tokens; the maximum of any request
# Fields by which a harness could leave its sandbox or have another model answer.
_LOCKED = {
    "mcp_servers": "it would reach other servers",
    "web_search_options": "it would search the web",
    "plugins": "they would reach other servers",
    "container": "it would run code elsewhere",
    "models": "the experiment names the model",
    "fallbacks": "the experiment names the model",
}


def bad_request(message: str) -> Failed:
    """Return the error for a request that is refused here, before it is sent."""
    return Failed("bad_request", message, status=400, sent=False)


def refuse_locked(body: Body) -> None:
    """Refuse fields that would leave the sandbox or choose another model. Raises CallError."""
    for name, why in _LOCKED.items():
        if body.get(name):
            raise bad_request(f"{name} is not served here: {why}")
    if body.get("service_tier") == "priority":
        raise bad_request("service_tier=priority is not served here: it has prices of its own")


def refuse_tools(tools: Any, allowed: Iterable[str]) -> None:
    """Refuse tools that the provider would run; only the client's own are allowed. Raises CallError."""
    if tools is None:
        return
    if not isinstance(tools, list):
        raise bad_request("tools must be a list")
    for tool in tools:
        kind = tool.get("type", "custom") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or not kind.startswith(tuple(allowed)):
            raise bad_request(f"tools of type {kind!r} are not served here, only those that the client runs itself")


def messages_of(body: Body) -> list[Body]:
    """Return the messages, checked. Raises CallError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise bad_request("messages must be a list of at least one object")
    refuse_addresses(part for message in messages for part in _parts(message.get("content")))
    return messages


def refuse_addresses(parts: Iterable[Body]) -> None:
    """Refuse content given by address: the provider or litellm would fetch it, outside the sandbox."""
    for part in parts:
        for reference in (part.get("image_url"), part.get("source"), part.get("file"), part.get("video_url")):
            fields = reference if isinstance(reference, dict) else {"url": reference}
            url = fields.get("url")
            if fields.get("file_id") or (url is not None and not str(url).startswith("data:")):
                raise bad_request("pictures and files must be sent as data, not as an address")


def _parts(content: Any) -> Iterable[Body]:
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield part
            yield from _parts(part.get("content"))  # inside a tool's result


def positive(body: Body, name: str) -> int | None:
    """Return a completion bound as the request names it, at most MAX_OUTPUT_TOKENS. Raises CallError."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad_request(f"{name} must be a whole number above 0")
    return min(value, MOST_OUTPUT)


def flag(body: Body, name: str) -> bool:
    """Return a field that must be true, false or absent. Raises CallError."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"{name} must be true or false")
    return bool(value)
