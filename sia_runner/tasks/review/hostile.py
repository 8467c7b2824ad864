"""Submissions that no honest harness writes: the verifier must give an outcome for each question, in time, every time.

A verifier that fails makes a candidate unscored instead of wrong, which a harness that expects a bad score may prefer.
"""

from collections.abc import Callable, Iterator, Mapping

from sia_runner.tasks.review.finding import Finding
from sia_runner.tasks.review.subject import Content, Row, Subject

_FIX = "catch what reading and converting may raise, and call it invalid_format"
_HUGE = 16 << 20  # bytes, where the task allows so many
_TEXTS = {
    "a number of 5,000 digits": "9" * 5000,
    "a number too large for a float": "1e400",
    "NaN": "nan",
    "10,000 opening brackets": "[" * 10_000,
    "deeply nested JSON": '{"a":' * 5000 + "1" + "}" * 5000,
    "50,000 letters": "a" * 50_000 + "!",
    "a format string": "%s%n{0.__class__}{missing}",
    "a path": "../../../../etc/passwd",
    "control characters": "\x07\x1b[2J\u202e\ufffe",
    "a lone quote": '"',
    "nothing but commas": ",,,,,",
}


def hostile_submissions(subject: Subject, sample: Content) -> Iterator[Finding]:
    """Try hostile submissions on the verifier. `sample`: the submission of the reference harness."""
    honest = _honest_submission(subject, sample)
    good = subject.verify(subject.submit_bytes(honest)).value if honest else None
    for name, data in _files(subject, honest).items():
        yield from _try(subject, name, data, good)
    if subject.is_table and subject.verify(subject.submit(_nonsense_rows(subject))).value is None:
        for name, text in _TEXTS.items():
            rows = subject.submit([(view_id, text) for view_id in subject.gold]) / subject.spec.submission
            yield from _try(subject, f"{name} as every answer", rows.read_bytes(), None)


def _try(subject: Subject, name: str, data: Content, good: float | None) -> Iterator[Finding]:
    verification = subject.verify(subject.submit_bytes(data))
    if verification.value is None:
        yield Finding("judge-fails", f"it fails on {name}: {verification.error}", subject.verifier_name, _FIX)
    elif good is not None and subject.better(verification.value, good):
        problem = f"{name} scores {verification.value:.3f}, the submission it was made of {good:.3f}"
        yield Finding(
            "damage-earns", problem, subject.verifier_name, "nothing that cannot be read may count as an answer"
        )


def _nonsense_rows(subject: Subject) -> list[Row]:
    """Return rows with every kind of nonsense: a verifier that survives these survives each kind alone."""
    texts = list(_TEXTS.values())
    return [(view_id, texts[n % len(texts)]) for n, view_id in enumerate(subject.gold)]


def _honest_submission(subject: Subject, sample: Content) -> Content:
    if not subject.is_table:
        return sample
    submission = subject.submit(subject.gold.items()) / subject.spec.submission
    return submission.read_bytes()


def _files(subject: Subject, honest: Content) -> Mapping[str, Content]:
    """Return name -> content of the submission file."""
    huge = min(_HUGE, (subject.spec.limits.submission_mb << 20) - 1)
    files: dict[str, Content] = {
        "no file": None,
        "an empty file": b"",
        "random bytes": bytes(range(256)) * 64,
        "zeros": bytes(4096),
        f"{huge >> 20} MiB without a line break": b"x" * huge,
    }
    if honest:
        files |= {
            "half of a good submission": _each(honest, lambda data: data[: len(data) // 2]),
            "a good submission with bytes changed": _each(honest, _changed),
        }
    if isinstance(honest, dict):
        files |= {
            "a good submission with files exchanged": dict(zip(honest, [*honest.values()][::-1], strict=True)),
            "one file of a good submission": dict([*honest.items()][:1]),
        }
    return files | (_tables(subject, honest) if isinstance(honest, bytes) and subject.is_table else {})


def _each(honest: bytes | dict[str, bytes], change: Callable[[bytes], bytes]) -> Content:
    return change(honest) if isinstance(honest, bytes) else {name: change(data) for name, data in honest.items()}


def _tables(subject: Subject, honest: bytes) -> dict[str, Content]:
    text = honest.decode("utf-8", "replace")
    columns = subject.spec.columns
    header = f"{columns.id},{columns.answer}\n"
    return {
        "UTF-16": text.encode("utf-16"),
        "a byte order mark and CRLF": ("\ufeff" + text.replace("\n", "\r\n")).encode(),
        "bytes that are no UTF-8": honest.replace(b"\n", b"\xff\xfe\n"),
        "NULs": honest.replace(b",", b",\0"),
        "a quote that never ends": header.encode() + b'"' + honest,
        "a header without the answer": text.replace(columns.answer, "no_such_column", 1).encode(),
        "the header alone": header.encode(),
        "one answer alone": "".join(text.splitlines(keepends=True)[:2]).encode(),
        "rows of one cell": header.encode() + b"\n".join(line.split(b",")[0] for line in honest.splitlines()[1:]),
        "200,000 rows": header.encode() + b"x,y\n" * 200_000,
        "5,000 columns": ",".join([columns.id, columns.answer, *map(str, range(5000))]).encode() + b"\n0,1\n",
    }


def _changed(data: bytes) -> bytes:
    """Change every fiftieth byte."""
    changed = bytearray(data)
    for index in range(7, len(changed), 50):
        changed[index] ^= 0x15
    return bytes(changed)
