"""Failures of the provider are not wrong answers of the harness; solved questions keep their value."""

from hypothesis import given
from hypothesis import strategies as st

from sia_runner.records import INFRASTRUCTURE_KINDS, CallFailures, Outcome, OutcomeKind
from sia_runner.selection.scoring import correct_outcomes, unanswered_note

KINDS = st.sampled_from(list(OutcomeKind))
REPORTED = [*INFRASTRUCTURE_KINDS, OutcomeKind.TRUNCATED, OutcomeKind.TIMEOUT, OutcomeKind.NO_ANSWER]
KEYS = {f"q{k}": f"unit {k}" for k in range(6)}


def outcome(kind, k=0, value=0.0):
    return Outcome(f"unit {k}", kind, value, "what was answered")


def corrected(kind, own=None, value=0.0, **untagged):
    faults = CallFailures({"q0": OutcomeKind(own)} if own else {}, {OutcomeKind(k): n for k, n in untagged.items()})
    (result,) = correct_outcomes([outcome(kind, value=value)], faults, KEYS)
    return result


@given(KINDS, st.sampled_from(["rate_limited", "refused", "budget"]))
def test_a_question_with_an_unanswered_request_is_not_held_against_the_harness(kind, own):
    result = corrected(kind, own)
    if kind is OutcomeKind.CORRECT or kind in INFRASTRUCTURE_KINDS:
        assert result == outcome(kind)
    else:
        assert result.kind == own and "answered" not in result.prediction.replace("did not answer", "")


@given(KINDS)
def test_a_cut_answer_explains_a_wrong_or_missing_one_and_nothing_else(kind):
    explained = kind in (OutcomeKind.WRONG, OutcomeKind.NO_ANSWER, OutcomeKind.INVALID_FORMAT)
    assert corrected(kind, "truncated").kind == (OutcomeKind.TRUNCATED if explained else kind)


def test_a_cut_answer_keeps_its_value_so_that_it_is_no_gain_where_lower_is_better():
    assert corrected(OutcomeKind.WRONG, "truncated", value=7.5).value == 7.5


def test_failed_calls_that_named_no_question_may_have_been_any_unsolved_ones():
    assert corrected(OutcomeKind.WRONG, budget=1).kind is OutcomeKind.BUDGET
    assert corrected(OutcomeKind.NO_ANSWER, rate_limited=3, budget=1).kind is OutcomeKind.RATE_LIMITED
    assert corrected(OutcomeKind.CORRECT, rate_limited=3).kind is OutcomeKind.CORRECT


def test_cut_answers_that_named_no_question_are_left_alone():
    assert corrected(OutcomeKind.WRONG, truncated=5).kind is OutcomeKind.WRONG


def test_what_is_known_of_a_question_goes_before_what_may_be():
    assert corrected(OutcomeKind.WRONG, "budget", rate_limited=9).kind is OutcomeKind.BUDGET


def test_only_the_question_itself_is_corrected():
    outcomes = [outcome(OutcomeKind.WRONG, k) for k in range(3)]
    result = correct_outcomes(outcomes, CallFailures({"q1": OutcomeKind.RATE_LIMITED}), KEYS)
    assert [o.kind for o in result] == [OutcomeKind.WRONG, OutcomeKind.RATE_LIMITED, OutcomeKind.WRONG]


def test_ids_that_were_never_asked_may_be_of_any_question():
    faults = CallFailures({"agent-1": OutcomeKind.BUDGET, "unit 0": OutcomeKind.BUDGET})
    assert [o.kind for o in correct_outcomes([outcome(OutcomeKind.WRONG)], faults, KEYS)] == [OutcomeKind.BUDGET]


def test_the_one_value_of_a_task_folder_is_no_score_where_a_request_was_not_answered():
    faults = CallFailures({"17": OutcomeKind.RATE_LIMITED}, {}, {OutcomeKind.RATE_LIMITED: "slow down (status 429)"})
    (result,) = correct_outcomes([Outcome("all", OutcomeKind.PARTIAL, 0.5)], faults, {"all": "all"})
    assert result.kind is OutcomeKind.RATE_LIMITED and "slow down (status 429)" in result.prediction


def test_what_was_not_waited_for_is_a_timeout_and_said():
    faults = CallFailures({"q0": OutcomeKind.TIMEOUT}, {}, {OutcomeKind.TIMEOUT: "1 calls, after 30.0 s each"})
    (result,) = correct_outcomes([outcome(OutcomeKind.NO_ANSWER)], faults, KEYS)
    assert result.kind is OutcomeKind.TIMEOUT and "30.0 s" in result.prediction
    assert unanswered_note([result, outcome(OutcomeKind.WRONG, 1)]).startswith("1 of 2 timeout (")


def test_files_of_earlier_versions_are_read_as_those_did():
    data = {"questions": {"q0": "rate_limited", "agent-1": "budget"}, "untagged": {}}
    outcomes = [outcome(OutcomeKind.PARTIAL), outcome(OutcomeKind.WRONG, 1)]
    assert correct_outcomes(outcomes, CallFailures.from_json(data), KEYS) == outcomes


@given(
    st.lists(st.tuples(KINDS, st.integers(0, 5), st.floats(0, 1))),
    st.dictionaries(st.sampled_from(sorted(KEYS)) | st.text(), st.sampled_from(REPORTED)),
    st.dictionaries(st.sampled_from(REPORTED), st.integers(0, 3)),
)
def test_no_outcome_is_lost_none_made_better_and_without_faults_nothing_changes(given_outcomes, questions, untagged):
    outcomes = [outcome(kind, k, value) for kind, k, value in given_outcomes]
    result = correct_outcomes(outcomes, CallFailures(questions, untagged), KEYS)
    assert [(o.unit, o.value) for o in result] == [(o.unit, o.value) for o in outcomes]
    earned = {OutcomeKind.CORRECT, OutcomeKind.PARTIAL}
    assert all(new.kind not in earned or new == old for new, old in zip(result, outcomes, strict=True))
    assert correct_outcomes(outcomes, CallFailures(), KEYS) == outcomes
