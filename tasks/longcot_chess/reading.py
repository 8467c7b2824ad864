"""Readers of an integer or a list of moves in an answer; hostile text is bounded, and None is returned when unclear."""

import re
import unicodedata

TAIL = 20_000  # characters looked at, from the end: the last "solution = ..." counts
_SOLUTION = re.compile(r"(?i)\bsolution\b[\"'`*_ ]{0,6}(?:=|:|\bis\b)[\s\"'`*_$(]{0,12}")
_BOXED = re.compile(r"\\boxed ?\{([^{}]{1,200})\}")
_NUMBER = re.compile(r"(?<![\w.,/-])([0-9]{1,6})(?:\.0{1,3})?(?![\w,/]|\.[0-9]|[-–][0-9])")
_FIGURINES = str.maketrans("♔♕♖♗♘♚♛♜♝♞", "KQRBNKQRBN", "♙♟")
_MOVE_NUMBER = re.compile(r"^[0-9]{1,3}\.{1,3} ?(?=\S)|^[0-9]{1,3}…")
_MOVE = re.compile(r"[KQRBN]?[a-h]?[1-8]?[x-]?[a-h][1-8](?:=?[QRBNqrbn])?|[O0]-[O0](?:-[O0])?")


def integer(text: str) -> int | None:
    """Return the number of the last "solution = 57" (or of a box), else the only number there is."""
    stated = _stated(text)
    numbers = _NUMBER.findall(stated[:100]) if stated is not None else _NUMBER.findall(_plain(text))
    return int(numbers[0]) if len(set(numbers)) == 1 else None


def moves(text: str) -> list[str] | None:
    """Return the moves of the last "solution = [Nf3, d5, exd5]", else of the whole text; None when one is no move.

    Move numbers, quotes, check marks and comments like "!?" are left out; promotions become "=Q".
    """
    stated = _stated(text)
    if stated is None:
        stated = _plain(text)
    bracketed = re.match(r"[^\[\]\n]{0,20}\[([^\[\]]{1,300})\]", stated)
    listed = bracketed[1] if bracketed else stated.split("\n")[0]
    if len(listed) > 300:
        return None
    parsed = [_move(part) for part in re.split(r"[,;]" if "," in listed or ";" in listed else r"\s+", _joined(listed))]
    return None if None in parsed else [move for move in parsed if move]


def _stated(text: str) -> str | None:
    text = _plain(text)
    if solutions := list(_SOLUTION.finditer(text)):
        return text[solutions[-1].end() :].split("\n\n")[0]
    boxes = _BOXED.findall(text)
    return boxes[-1] if boxes else None


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text[-TAIL:])[-TAIL:].translate(_FIGURINES)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def _joined(listed: str) -> str:
    """Join a move number to its move: "38... c4" becomes one word."""
    return re.sub(r"([0-9]{1,3}\.{1,3}|[0-9]{1,3}…) (?=\S)", r"\1", listed.strip())


def _move(part: str) -> str | None:
    """Return the move's plain spelling; "" for an empty part, None for what is no move."""
    part = part.strip(" \n\"'`*_$()[]{}") if "(" not in part else part.strip(" \n\"'`*_$[]{}")
    part = _MOVE_NUMBER.sub("", part)
    part = re.sub(r" ?e\. ?p\.?$", "", part).rstrip("+#!?. ")
    part = re.sub(r"[(/]([QRBNqrbn])\)?$", r"=\1", part)
    if not part:
        return ""
    return part if _MOVE.fullmatch(part) else None
