"""Text of models and harnesses is untrusted: we show it bounded, without control characters, never as markup."""

import re
import unicodedata

_NEWLINES = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_TEXT = "\n\t"


def strip_control_characters(text: str) -> str:
    """Return `text` without control characters: Unicode's categories C*, except line feed and tab."""
    if text.isascii() and text.isprintable():
        return text
    lines = _NEWLINES.sub("\n", text)
    return "".join(c for c in lines if c in _TEXT or unicodedata.category(c)[0] != "C")


def truncate_bytes(text: str, max_bytes: int) -> str:
    """Return `text` in `max_bytes` of UTF-8 (at least 96): its beginning, a note, half as much of its end."""
    size = len(text) if text.isascii() else len(text[: max_bytes + 1].encode(errors="replace"))
    if size <= max_bytes and len(text) <= max_bytes:
        return text
    budget = max(max_bytes, 96) - 56  # 56: the note
    first, last = budget * 2 // 3, budget // 3
    head = text[:first].encode(errors="replace")[:first].decode(errors="ignore")
    tail = text[-last:].encode(errors="replace")[-last:].decode(errors="ignore")
    return f"{head} [… {len(text) - len(head) - len(tail):,} characters cut …] {tail}"


def fenced_block(text: str) -> str:
    """Return a Markdown code block that the text cannot end, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


def one_line(text: str, max_chars: int = 200) -> str:
    """Return at most `max_chars` characters on one line, as prose."""
    line = " ".join(strip_control_characters(text[: 4 * max_chars]).split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def table_cell(text: str, max_chars: int = 80) -> str:
    """Return a cell of a Markdown table: code, so that nothing in it is read as markup."""
    line = one_line(text, max_chars).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else "(empty)"
