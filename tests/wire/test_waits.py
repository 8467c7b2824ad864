"""How long a provider asks to wait, in its headers, its error's details or its words; and quotas of a whole day."""

import pytest

from sia_runner.wire.failures import error_of_status


def gemini(quota, delay="9s"):
    quota_failure = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    error = {
        "code": 429,
        "message": "Quota exceeded",
        "status": "RESOURCE_EXHAUSTED",
        "details": [quota_failure, retry],
    }
    return [{"error": error}]


def stated(message):
    return {"error": {"message": message}}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), 9.0),
        (gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "34.074824224s"), 34.074824224),
        (stated("Rate limit reached on tokens per min (TPM). Please try again in 350ms. Visit ..."), 0.35),
        (stated("Rate limit reached on requests per min. Please try again in 20s."), 20.0),
        (stated("Rate limit reached on requests per day (RPD). Please try again in 7m12s."), 432.0),
        (stated("Please retry after 12 seconds."), 12.0),
        (stated("Slow down"), None),
        ("Too many requests", None),
    ],
)
def test_a_delay_in_the_body_is_read(body, seconds):
    failed = error_of_status(429, {}, body)
    assert failed.retry_after == pytest.approx(seconds) and failed.transient


def test_a_header_comes_before_the_body():
    assert error_of_status(429, {"retry-after": "3"}, stated("try again in 20s")).retry_after == 3.0


@pytest.mark.parametrize(
    "body",
    [
        gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        stated("Rate limit exceeded: free-models-per-day"),
        stated("You have used up your daily quota"),
    ],
)
def test_a_quota_of_a_day_that_is_used_up_is_not_waited_for(body):
    assert not error_of_status(429, {}, body).transient


def test_the_word_day_in_another_error_changes_nothing():
    assert error_of_status(503, {}, stated("daily maintenance")).transient
