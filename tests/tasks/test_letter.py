"""The option that an answer names: what a person would read out of it, and nothing where a person would not know."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.records import OutcomeKind
from sia_runner.tasks.verifiers.answers import letter_finder, letter_in_text

FIND = letter_finder("ABCD")
LETTERS = st.sampled_from("ABCD")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        " b \n",
        "(B)",
        "b)",
        "**B**",
        "`B`.",
        "Ｂ",
        "Ⓑ",
        "\ufeffB",
        "B) 42 nm",
        "(B) 42 nm",
        "B. 42 nm",
        "The answer is B",
        "the answer is b.",
        "The answer is B.The rest is noise",
        "**Answer: B**",
        "**Answer:** B",
        "### Answer\n\n**B**",
        "Final answer - (b)",
        "answer=B",
        "Answer: B) 42 nm",
        "Answer:\u200b B",
        "The correct option would be (b)",
        "The answer to question 5 is: option (B)",
        "The answer is $\\mathrm{B}$.",
        "\\boxed{B}",
        "\\[\\boxed{\\textbf{(B)}}\\]",
        "The final answer is \\boxed{B}.",
        '{"answer": "B"}',
        '```json\n{"reasoning": "The answer is A", "answer": "b"}\n```',
        '{"answer": "B) 42 nm"}',
        'I am sure now: {"answer": "B"}',
        "<answer>B</answer>",
        "I would go with B",
        "I choose option B.",
        "Option B is correct, since A has no charge.",
        "B is the correct answer.",
        "It cannot be A or C. Two remain.\n\nB",
    ],
)
def test_one_letter_is_stated(text):
    assert FIND(text) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "I think of A at first. The answer is B.",
        "The answer is A. Wait, no: the answer is B.",
        "If the answer is C, the charge is lost. So the answer is B",
        "Choose A, B, C or D.\nAnswer: B",
        "Answer: B\n\nExplanation: A is too small, D is too large.",
        "The answer is B, not A",
        "The answer is B, and D is wrong",
        "The answer is not A. \\boxed{B}",
    ],
)
def test_the_last_definite_statement_wins_over_earlier_ones_and_mentions(text):
    assert FIND(text) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "E",
        "AB",
        "A or B",
        "A, B",
        "The answer is A or B",
        "The answer is A and B",
        "Answer: A/B",
        "The answer is either A or B",
        "A and C is right",
        '{"answer": ["A", "B"]}',
        '{"answer": null}',
        "A) 1\nB) 2\nC) 3\nD) 4",
        "A good idea is to wait.",
        "The answer is a good idea",
        "The answer is A good idea",
        "I choose a number",
        "The answer is not B",
        "I don't think the answer is B",
        "A is not correct",
        "The wrong answer is A",
        "The answer is D-glucose",
        "The answer is C60",
        "The answer is A = benzene, B = toluene",
        "The answer is unknown",
    ],
)
def test_what_names_no_letter_or_several_is_no_answer(text):
    assert FIND(text) is None


def test_a_capital_a_is_the_option_before_a_conjunction_and_an_article_before_anything_else():
    assert FIND("The answer is A because it is larger") == "A"
    assert FIND("The answer is A larger one") is None


def test_the_letter_is_judged_against_the_key():
    judge = letter_in_text(["A", "B", "C", "D"])
    assert judge("The answer is (b).", "B") == (OutcomeKind.CORRECT, 1.0)
    assert judge("The answer is (c).", "B") == (OutcomeKind.WRONG, 0.0)
    assert judge("B or C", "B") == (OutcomeKind.INVALID_FORMAT, 0.0)


def test_letters_that_are_no_choice_do_not_count():
    assert letter_finder("AB")("The answer is C") is None
    assert letter_finder("ABCDE")("The answer is E") == "E"


@given(st.text(max_size=3000))
def test_no_text_breaks_it(text):
    assert FIND(text) in {None, "A", "B", "C", "D"}


@given(
    st.lists(
        st.sampled_from(["answer", "is", "not", "A", "b", "(", "\\boxed{", "}", ":", "**", '"', "or", ",", "\n", "{"])
    )
)
def test_no_mixture_of_its_own_words_breaks_it(words):
    assert FIND(" ".join(words)) in {None, "A", "B", "C", "D"}


@given(st.text(alphabet="xyz \n.", max_size=200), LETTERS)
def test_a_last_statement_is_found_after_any_prose(prose, chosen):
    assert FIND(f"{prose}\nThe answer is A.\nThe answer is {chosen}.") == chosen


@given(LETTERS, LETTERS)
def test_two_letters_are_never_turned_into_one(one, other):
    if one != other:
        assert FIND(f"The answer is {one} or {other}.") is None
        assert FIND(f"{one}\n{other}") is None


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)), LETTERS)
def test_the_field_of_a_json_answer_wins_over_its_prose(fields, chosen):
    assert FIND(json.dumps({"why": "The answer is A", **fields, "final_answer": chosen})) == chosen


@pytest.mark.parametrize(
    "text",
    [
        "answer " * 30_000,
        "answer" + " " * 1_000_000,
        "answer is " * 50_000,
        "answer: " + "*" * 500_000,
        "(" * 500_000,
        "\\boxed{" * 50_000,
        '{"a":' * 100_000,
        "A, " * 200_000,
        "not " * 100_000,
        "\ufdfa" * 100_000,
        "B\n" * 200_000,
    ],
)
def test_a_huge_text_takes_no_time(text):
    began = time.process_time()
    FIND(text)
    assert time.process_time() - began < 0.5
