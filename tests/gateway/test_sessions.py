"""Sessions at the gateway: who is let in, for how long, and what is recorded."""

import json
import os
import stat
import threading
import time
from concurrent.futures import Future

import openai
import pytest

from sia_runner.gateway.session import MAX_CONCURRENT_CALLS
from sia_runner.records import OutcomeKind
from sia_runner.wire.grants import BudgetSpent, ModelsError
from tests.gateway.gateway_kit import HI, Guest
from tests.provider import Answer, Hang, Status


def test_the_environment_names_the_gateway_and_no_key(scene):
    scene.open()
    with scene.session() as guest:
        env = guest.session.address.env
    assert env["OPENAI_BASE_URL"] == "{url}/v1" and env["ANTHROPIC_BASE_URL"] == "{url}"
    assert env["SIA_MODEL"] == "scripted"
    assert env["OPENAI_API_KEY"] == env["ANTHROPIC_API_KEY"] != "test-key"


def test_the_socket_can_be_reached_by_another_user_who_knows_its_name(scene):
    scene.open()
    with scene.session() as guest:
        path = guest.session.address.socket
        assert len(os.fsencode(path)) < 108
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
    scene.models.close()
    assert not path.parent.exists()


def test_a_long_temporary_folder_does_not_break_the_socket(scene, monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    scene.open()
    with scene.session() as guest:
        assert guest.ask() == "hello"


def test_a_token_is_void_when_its_visit_has_ended(scene):
    scene.open()
    with scene.session() as early:
        assert early.ask() == "hello"
    with scene.session() as guest:
        with pytest.raises(openai.AuthenticationError, match="token"):
            early.ask()
        with guest.http() as http:
            assert http.get("/v1/models", headers={"authorization": "Bearer test-key"}).status_code == 401
            assert http.get("/v1/models", headers={"authorization": ""}).status_code == 401


def test_calls_under_way_are_cancelled_and_settled_when_the_visit_ends(scene):
    scene.open(timeout=60.0)
    scene.otherwise = Hang(30)
    failures = []
    with scene.session() as guest:

        def ask():
            try:
                guest.ask(max_tokens=10)
            except openai.APIError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not scene.server.requests:
            time.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert scene.records()[0]["error"]["kind"] == "cancelled"
    assert scene.spent()[0] == 1
    assert scene.models.ledger.totals().in_flight == 0
    thread.join()
    assert failures


def test_a_client_that_hangs_up_is_not_paid_for_any_longer(scene):
    scene.open(timeout=60.0)
    scene.otherwise = Hang(30)
    with scene.session() as guest:
        with pytest.raises(openai.APITimeoutError):
            guest.openai(max_retries=0).chat.completions.create(model="m", messages=HI, timeout=0.3)
        while not scene.trajectories.exists():
            time.sleep(0.01)
        assert scene.records()[0]["error"]["kind"] == "cancelled"
        assert guest.session.faults().questions == {}


def test_a_question_is_named_by_header_user_or_metadata_and_never_guessed(scene):
    scene.open()
    with scene.session() as guest:
        guest.ask(user="by user")
        guest.ask(user="by user", extra_headers={"x-sia-question": "by header"})
        guest.anthropic().messages.create(model="m", max_tokens=9, messages=HI, metadata={"user_id": "by metadata"})
        guest.ask()
        guest.ask(user="u" * 1000)
    assert [record["question"] for record in scene.records()] == [
        "by user",
        "by header",
        "by metadata",
        None,
        "u" * 200,
    ]
    assert all("x-sia-question" not in request.headers for request in scene.server.requests)


def test_a_grant_for_one_question_tags_every_call(scene):
    scene.open()
    with scene.session(question="q1", sample=3) as guest:
        guest.ask(user="another")
    assert (scene.records()[0]["question"], scene.records()[0]["sample"]) == ("q1", 3)


def test_the_last_call_for_a_question_decides(scene):
    scene.open(attempts=1)
    scene.reactions = [
        Status(500),
        Answer("mended"),
        Answer("fine"),
        Status(429),
        Answer("cut", finish_reason="length"),
        Status(500),
    ]
    with scene.session() as guest:
        guest.ask_all(["mended", "mended", "failed", "failed", "cut"], threads=1)
        with pytest.raises(openai.APIError):
            guest.ask()
        faults = guest.session.faults()
    assert faults.questions == {"failed": OutcomeKind.RATE_LIMITED, "cut": OutcomeKind.TRUNCATED}
    assert faults.untagged == {OutcomeKind.RATE_LIMITED: 1}


def test_each_visit_has_its_own_usage(scene):
    scene.open()
    scene.otherwise = Answer("x", input_tokens=10, output_tokens=5)
    with scene.session() as first, scene.session(candidate="gen_2") as other:
        first.ask()
        first.ask()
        other.ask()
    assert (first.session.usage().calls, first.session.usage().tokens) == (2, 30)
    assert (other.session.usage().calls, other.session.usage().tokens) == (1, 15)
    assert first.session.usage().usd == pytest.approx(2 * (10 * 1 + 5 * 2) / 1e6)


def test_a_record_says_all_that_is_known_of_a_call(scene):
    scene.open()
    scene.otherwise = Answer("four", input_tokens=10, output_tokens=5, cached_tokens=4)
    with scene.session() as guest:
        guest.ask("2+2?", user="q", temperature=0.5)
    [record] = scene.records()
    assert record["request"]["messages"] == [{"role": "user", "content": "2+2?"}]
    assert record["request"]["temperature"] == 0.5
    assert record["response"] == {"text": "four", "tool_calls": []}
    assert record["usage"] == {"input": 10, "output": 5, "cached": 4, "estimated": False}
    assert (record["model"], record["finish_reason"], record["attempts"], record["error"]) == (
        "scripted",
        "stop",
        1,
        None,
    )
    assert (record["candidate"], record["purpose"], record["api"]) == ("gen_1", "trial", "openai")
    assert abs(record["at"] - time.time()) < 60 and record["seconds"] > 0 and record["usd"] > 0


def test_a_long_request_and_a_long_answer_are_cut_in_the_record_only(scene):
    scene.open()
    scene.otherwise = Answer("漢" * 200_000, output_tokens=1)
    with scene.session() as guest:
        assert len(guest.ask("word " * 100_000)) == 200_000
    [record] = scene.records()
    assert record["request"].endswith("[cut]") and record["response"].endswith("[cut]")
    assert len(scene.trajectories.read_bytes()) < 600 << 10


def test_more_calls_than_may_be_under_way_wait_and_are_all_answered(scene):
    scene.open(concurrency=200)
    scene.otherwise = Answer("done", delay=0.05)
    with scene.session() as guest:
        assert guest.ask_all([str(n) for n in range(MAX_CONCURRENT_CALLS + 30)], threads=MAX_CONCURRENT_CALLS + 30) == [
            "done"
        ] * (MAX_CONCURRENT_CALLS + 30)


def test_no_more_calls_reach_the_provider_at_once_than_its_concurrency(scene):
    scene.open(concurrency=3)
    current, peak = [0], [0]

    async def react(request):
        import asyncio

        del request
        current[0] += 1
        peak[0] = max(peak[0], current[0])
        await asyncio.sleep(0.02)
        current[0] -= 1
        return Answer("x")

    scene.otherwise = react
    with scene.session() as guest:
        guest.ask_all([str(n) for n in range(30)], threads=15)
    assert peak[0] == 3


def test_closing_twice_is_safe_and_afterwards_nothing_is_served(scene):
    scene.open()
    with scene.session():
        scene.models.close()
    scene.models.close()
    with pytest.raises(ModelsError):
        scene.models.chat(scene.grant(), HI, [])


def test_a_role_without_a_provider_is_refused(scene):
    scene.open()
    scene.models._providers.pop("meta")
    with pytest.raises(ModelsError, match="meta"):
        scene.models.chat(scene.grant(role="meta"), HI, [])


def test_a_full_disk_is_trouble_and_not_the_harnesss_fault(scene):
    scene.open()
    scene.trajectories.mkdir()  # cannot be written
    with scene.session() as guest:
        assert guest.ask() == "hello"
        assert "cannot be written" in str(guest.session.trouble())
    scene.trajectories.rmdir()


def test_records_are_whole_lines_of_json(scene):
    scene.open(concurrency=16)
    with scene.session() as guest:
        guest.ask_all([f"line\nbreak \u2028 {n}" for n in range(100)], threads=16)
    lines = scene.trajectories.read_bytes().split(b"\n")
    assert lines[-1] == b"" and len([json.loads(line) for line in lines[:-1]]) == 100


# --- what the host does for a sandbox beside models ---


def future_of(result):
    future = Future()
    future.set_exception(result) if isinstance(result, BaseException) else future.set_result(result)
    return future


def posted(guest, path, body):
    with guest.http() as client:
        return client.post(path, json=body)


def test_a_service_of_the_host_is_reached_by_its_name_with_the_sessions_token(scene):
    scene.open()
    asked = []
    service = lambda name, body: asked.append((name, body)) or future_of({"text": "done"})  # noqa: E731
    with scene.models.open_session(scene.grant(role="meta"), service=service) as session:
        guest = Guest(session)
        assert [posted(guest, path, {"files": {}}).json() for path in ("/sia/try", "/v1/sia/try")] == [
            {"text": "done"}
        ] * 2
        assert asked == [("try", {"files": {}})] * 2
        assert posted(guest, "/sia/try", ["no object"]).status_code == 400
        with guest.http() as client:
            assert client.post("/sia/try", json={}, headers={"authorization": "Bearer other"}).status_code == 401
        assert session.trouble() is None and session.usage().calls == 0
    with scene.session() as guest:
        assert posted(guest, "/sia/try", {}).status_code == 404


@pytest.mark.parametrize("spent", [BudgetSpent("run", "budget.usd=1: a secret figure"), KeyboardInterrupt("secret")])
def test_what_a_service_raises_is_the_sessions_trouble_and_not_told_to_the_sandbox(scene, spent):
    scene.open()
    with scene.models.open_session(scene.grant(role="meta"), service=lambda *_: future_of(spent)) as session:
        answer = posted(Guest(session), "/sia/try", {}).json()
        assert "cannot go on" in answer["error"] and "secret" not in answer["error"]
        assert session.trouble() is spent
