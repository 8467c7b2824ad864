"""Judging hostile submissions: typed failures, never credit, never a crash.

The property at the heart: no submission scores above what its distinct, correctly answered questions earn.
"""

import codecs
import csv
import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.tasks.verifiers.answers import (
    auc,
    exact_match,
    finite_number,
    judge_all,
    number_within,
    one_of_choices,
    rank_scores,
)
from sia_runner.tasks.verifiers.submission import UnreadableError, read_answers

GOLD = {f"q{n}": "abcd"[n % 4] for n in range(12)}


@pytest.fixture
def read(tmp_path):
    def reader(text, rows=1000, size=1 << 20):
        path = tmp_path / "submission.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_answers(path, "id", "label", GOLD, rows, size)

    return reader


def kinds(read, text, judge=None):
    try:
        answers, spoiled = read(text)
    except UnreadableError:
        return dict.fromkeys(GOLD, "unreadable")
    return {o.unit: o.kind.value for o in judge_all(judge or exact_match(), answers, spoiled, GOLD)}


def rows_of(pairs):
    return "".join(f"{unit},{answer}\n" for unit, answer in pairs)


ALL_RIGHT = "id,label\n" + rows_of(GOLD.items())


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        ALL_RIGHT.encode(),
        codecs.BOM_UTF8 + ALL_RIGHT.encode(),
        ALL_RIGHT.encode("utf-16"),
        codecs.BOM_UTF16_BE + ALL_RIGHT.encode("utf-16-be"),
        ALL_RIGHT.replace("\n", "\r\n").encode(),
        ALL_RIGHT.replace("\n", "\r").encode(),
        ALL_RIGHT.replace("\n", "\n\n").encode(),
        ALL_RIGHT.rstrip("\n").encode(),
        ALL_RIGHT.replace(",", " , ").encode(),
        ALL_RIGHT.replace("id,label", '"id","label"').encode(),
        ALL_RIGHT.replace("\n", ",\n").encode(),  # a trailing comma on each line
        ("id,label\n" + rows_of(reversed(GOLD.items()))).encode(),
        ("label,note,id\n" + "".join(f"{a},x,{u}\n" for u, a in GOLD.items())).encode(),
        (ALL_RIGHT + "unknown,a\n,a\n").encode(),
        ALL_RIGHT.replace("q0,", "q0\0,").encode(),
    ],
    ids=[
        *(
            "plain",
            "bom",
            "utf16",
            "utf16 be",
            "crlf",
            "cr",
            "blank lines",
            "no last newline",
            "spaces",
            "quoted header",
        ),
        *("trailing commas", "other order", "more columns", "unknown ids", "nul"),
    ],
)
def test_what_is_meant_well_is_understood(read, data):
    assert set(kinds(read, data).values()) == {"correct"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n\n", "id\nq0\n", "label\na\n", "q0,a\nq1,b\n", "id,label,label\nq0,a,a\n", "id,id,label\nq0,q1,a\n"),
        *("ID,Label\nq0,a\n", '"id,label\nq0,a\n', "\0\0\0", "id;label\nq0;a\n"),
    ],
)
def test_a_header_that_is_not_clear_spoils_the_whole(read, text):
    assert set(kinds(read, text).values()) == {"unreadable"}


def test_an_id_answered_twice_earns_nothing_even_if_both_are_right(read):
    found = kinds(read, ALL_RIGHT + "q3,d\n")
    assert found.pop("q3") == "invalid_format"
    assert set(found.values()) == {"correct"}


def test_one_right_row_a_hundred_times_earns_nothing(read):
    found = kinds(read, "id,label\n" + "q0,a\n" * 100)
    assert found["q0"] == "invalid_format"
    assert set(found.values()) == {"invalid_format", "no_answer"}


@pytest.mark.parametrize(
    ("row", "kind"), [("q0,a,b", "invalid_format"), ("q0", "invalid_format"), ("q0,", "no_answer")]
)
def test_a_row_that_does_not_fit_the_header_is_a_typed_failure(read, row, kind):
    assert kinds(read, f"id,label\n{row}\nq1,b\n") == dict.fromkeys(GOLD, "no_answer") | {"q0": kind, "q1": "correct"}


def test_invalid_utf8_spoils_its_own_cell_only(read):
    found = kinds(read, b"id,label\nq0,\xff\xfea\nq1,b\n")
    assert (found["q0"], found["q1"]) == ("wrong", "correct")


def test_an_open_quote_swallows_what_follows_and_no_more(read):
    found = kinds(read, 'id,label\nq0,a\nq1,"b\nq2,c\n')
    assert found["q0"] == "correct"
    assert found["q2"] == "no_answer"


def test_more_rows_than_allowed_spoil_the_whole(read):
    with pytest.raises(UnreadableError, match="50 rows"):
        read("id,label\n" + "x,a\n" * 51, rows=50)


def test_a_file_above_the_size_is_not_read(tmp_path):
    path = tmp_path / "submission.csv"
    with path.open("wb") as stream:
        stream.write(ALL_RIGHT.encode())
        stream.truncate(1 << 30)
    with pytest.raises(UnreadableError, match="1 MiB"):
        read_answers(path, "id", "label", GOLD, 1000, 1 << 20)


@pytest.mark.parametrize(
    "text",
    [
        ALL_RIGHT + "q" * (30 << 20),  # one endless line
        ALL_RIGHT + 'x,"' + "y\n" * (10 << 20),  # one endless cell
        ALL_RIGHT + "," * (20 << 20),
        ALL_RIGHT + "\n" * (20 << 20),
    ],
    ids=["line", "quote", "commas", "blank lines"],
)
def test_thirty_megabytes_of_nonsense_take_seconds_and_little_memory(tmp_path, text):
    import tracemalloc

    path = tmp_path / "submission.csv"
    path.write_text(text)
    del text
    began = time.monotonic()
    tracemalloc.start()
    try:
        answers, _ = read_answers(path, "id", "label", GOLD, 1000, 64 << 20)
    except UnreadableError:
        answers = dict(GOLD)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {unit: answers.get(unit) for unit in list(GOLD)[:11]} == {unit: GOLD[unit] for unit in list(GOLD)[:11]}
    assert peak < 100 << 20
    assert time.monotonic() - began < 30


# --- judging ------------------------------------------------------------------------------------------------


def test_exact_match_forgives_spaces_and_unicode_form_and_nothing_else():
    judge = exact_match()
    assert judge(" a ", "a")[0] is OutcomeKind.CORRECT
    assert judge("café", "cafe\u0301")[0] is OutcomeKind.CORRECT
    for wrong in ("A", "a.", "the answer is a", "a a", "ａ"):
        assert judge(wrong, "a") == (OutcomeKind.WRONG, 0.0)


def test_choice_takes_the_whole_cell_in_any_case():
    judge = one_of_choices(["A", "B", "True"])
    assert judge("b", "B") == (OutcomeKind.CORRECT, 1.0)
    assert judge(" TRUE ", "True") == (OutcomeKind.CORRECT, 1.0)
    assert judge("A", "B") == (OutcomeKind.WRONG, 0.0)
    for invalid in ("The answer is B", "B.", "C", "1", "A B", "nan"):
        assert judge(invalid, "B") == (OutcomeKind.INVALID_FORMAT, 0.0)


def test_numeric_counts_within_the_tolerance_and_knows_no_nan():
    judge = number_within(0.1)
    assert judge("3.05", "3")[0] is OutcomeKind.CORRECT
    assert judge("3e0", "3")[0] is OutcomeKind.CORRECT
    assert judge("3.2", "3")[0] is OutcomeKind.WRONG
    for invalid in ("nan", "inf", "-inf", "1e999", "3 apples", "1_0", "0x3", "--3"):
        assert judge(invalid, "3") == (OutcomeKind.INVALID_FORMAT, 0.0)


@given(st.text(max_size=20))
def test_no_text_breaks_a_judge(text):
    for judge in (exact_match(), one_of_choices(["1", "2"]), number_within(0.5)):
        kind, value = judge(text, "1")
        assert value == float(kind is OutcomeKind.CORRECT)
    assert finite_number(text) is None or abs(finite_number(text)) < float("inf")


# --- the property -------------------------------------------------------------------------------------------

UNITS = st.sampled_from([*GOLD, "unknown", "", " q1 ", "q1\n", "Q1", "q1\0", "١"])
CELLS = st.one_of(
    st.sampled_from(["a", "b", "c", "d", " a", "", "nan", "NaN", '"', ",", "\n", "1e400"]), st.text(max_size=4)
)
ROWS = st.lists(st.lists(st.one_of(UNITS, CELLS), min_size=0, max_size=4), max_size=40)
HEADERS = st.sampled_from([["id", "label"], ["label", "id"], ["id", "x", "label"], ["id", "label", "label"], ["id"]])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])


def could_earn(text):
    """Distinct questions of which the text holds the right answer next to the id, in either order; an upper bound."""
    return {unit for unit, answer in GOLD.items() if unit in text and answer in text}


def total(path, judge):
    try:
        answers, spoiled = read_answers(path, "id", "label", GOLD, 1000, 1 << 20)
    except UnreadableError:
        return 0.0
    outcomes = judge_all(judge, answers, spoiled, GOLD)
    assert [o.unit for o in outcomes] == list(GOLD)
    return sum(o.value for o in outcomes)


@settings(max_examples=300)
@given(header=HEADERS, rows=ROWS, encoding=ENCODINGS, terminator=st.sampled_from(["\n", "\r\n", "\r"]))
def test_no_submission_scores_above_its_distinct_right_answers(tmp_path_factory, header, rows, encoding, terminator):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=terminator, escapechar="\\").writerows([header, *rows])
    path = tmp_path_factory.mktemp("p") / "submission.csv"
    path.write_bytes(buffer.getvalue().encode(encoding, "replace"))
    place, answer = header.index("id"), header.index("label") if "label" in header else 99
    right = {
        unit
        for row in rows
        for unit in [row[place].replace("\0", "").strip() if len(row) > place else ""]
        if unit in GOLD and len(row) > answer and row[answer].replace("\0", "").strip() == GOLD[unit]
    }
    assert total(path, exact_match()) <= len(right)


@settings(max_examples=300)
@given(data=st.binary(max_size=400), start=st.sampled_from([b"", b"id,label\n", b"\xef\xbb\xbfid,label\r\n"]))
def test_no_bytes_break_the_reader_or_earn_what_they_do_not_hold(tmp_path_factory, data, start):
    path = tmp_path_factory.mktemp("p") / "submission.csv"
    path.write_bytes(start + data)
    for judge in (exact_match(), one_of_choices(list("abcd"))):
        assert total(path, judge) <= len(could_earn(data.decode("utf-8", "replace").lower().replace("\0", "")))


@settings(max_examples=200)
@given(rows=st.lists(st.tuples(st.sampled_from(list(GOLD)), st.sampled_from("abcd")), max_size=60))
def test_more_rows_for_the_same_ids_never_earn_more(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("p")
    (folder / "a.csv").write_text("id,label\n" + rows_of(rows))
    (folder / "b.csv").write_text("id,label\n" + rows_of([*rows, *rows[:5]]))
    assert total(folder / "b.csv", exact_match()) <= total(folder / "a.csv", exact_match())


# --- AUC ----------------------------------------------------------------------------------------------------

SCORES = st.one_of(st.none(), st.sampled_from(["nan", "x", "inf", "0", "1", "0.5"]), st.floats(-1e6, 1e6).map(str))


def aucs(scores, gold):
    answers = {unit: score for unit, score in scores.items() if score is not None}
    outcomes = rank_scores(answers, set(), gold, "1")
    return auc(outcomes, gold, "1"), outcomes


@given(st.lists(st.tuples(st.sampled_from("01"), st.floats(-1e3, 1e3)), min_size=2, max_size=60))
def test_auc_is_that_of_scikit_learn(pairs):
    from sklearn.metrics import roc_auc_score

    gold = {f"u{i}": label for i, (label, _) in enumerate(pairs)}
    if len(set(gold.values())) == 2:
        value, _ = aucs({f"u{i}": repr(score) for i, (_, score) in enumerate(pairs)}, gold)
        assert value == pytest.approx(roc_auc_score([int(v) for v in gold.values()], [score for _, score in pairs]))


@given(st.lists(st.tuples(st.sampled_from("01"), SCORES), min_size=1, max_size=40), st.data())
def test_leaving_out_or_spoiling_a_score_never_helps_the_auc(pairs, data):
    gold = {f"u{i}": label for i, (label, _) in enumerate(pairs)}
    scores = {f"u{i}": score for i, (_, score) in enumerate(pairs)}
    value, outcomes = aucs(scores, gold)
    spoiled = data.draw(st.sampled_from(list(gold)))
    worse, _ = aucs(scores | {spoiled: data.draw(st.sampled_from([None, "nan", "high"]))}, gold)
    assert 0 <= value <= 1
    assert worse <= value + 1e-12
    assert [o.unit for o in outcomes] == list(gold)


def test_nothing_answered_is_the_worst_auc_and_one_class_is_undecided():
    assert aucs({}, {"a": "1", "b": "0"})[0] == 0.0
    assert auc([Outcome("a", OutcomeKind.PARTIAL, 0.3)], {"a": "1"}, "1") == 0.5


def test_ties_share_their_mean_rank():
    _, outcomes = aucs({"a": "1", "b": "1", "c": "2"}, {"a": "0", "b": "1", "c": "1"})
    assert [o.value for o in outcomes] == pytest.approx([1.5 / 4, 1.5 / 4, 3 / 4])
