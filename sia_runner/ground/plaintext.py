"""What models and harnesses wrote is hostile text: shown bounded, without control characters, never as markup."""

import re
import unicodedata

_NEWLINES = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_TEXT = "\n\t"


def plain(text: str) -> str:
    """Without characters that control a terminal or a reader: Unicode's categories C*, but line feed and tab."""
    if text.isascii() and text.isprintable():
        return text
    lines = _NEWLINES.sub("\n", text)
    return "".join(c for c in lines if c in _TEXT or unicodedata.category(c)[0] != "C")


def cut(text: str, most: int) -> str:
    """`text` within `most` bytes of UTF-8 (at least 96), two thirds of them from its beginning; what is left out is
    said. Cheap for a huge text."""
    size = len(text) if text.isascii() else len(text[: most + 1].encode(errors="replace"))
    if size <= most and len(text) <= most:
        return text
    room = max(most, 96) - 56
    head, tail = _start(text, room * 2 // 3), _end(text, room // 3)
    return f"{head} [… {len(text) - len(head) - len(tail):,} characters cut …] {tail}"


def fenced(text: str) -> str:
    """A Markdown code block that the text cannot end, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


def one_line(text: str, most: int = 200) -> str:
    """At most `most` characters on one line, as prose."""
    line = " ".join(plain(text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def cell(text: str, most: int = 80) -> str:
    """For a column of a Markdown table: code, so that nothing in it is read as markup."""
    line = one_line(text, most).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else "(empty)"


def _start(text: str, most: int) -> str:
    return text[:most].encode(errors="replace")[:most].decode(errors="ignore")


def _end(text: str, most: int) -> str:
    return text[-most:].encode(errors="replace")[-most:].decode(errors="ignore") if most > 0 else ""
