"""A proposer's calls take the same path and the same ledger; they block, also from several threads."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sia_runner.config.components import TokenPrices
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.service import GatewayService
from sia_runner.wire.grants import ModelsError, ProviderDown
from tests.gateway.gateway_kit import HI, hosted
from tests.provider import Answer, Hang, Malformed, ProviderServer, Status

TOOLS = [
    {
        "type": "function",
        "function": {"name": "read", "description": "r", "parameters": {"type": "object", "properties": {}}},
    }
]
APIS = pytest.mark.parametrize("api", ["openai", "anthropic", "litellm"])


def look(request):
    """Calls a tool first, then says what the tool said."""
    if request.messages[-1]["role"] == "tool":
        return Answer(f"I read: {request.last}")
    return Answer("let me read", tool_calls=(("read", {"path": "a"}),))


@APIS
def test_a_tool_using_loop(scene, api):
    scene.open(api=api)
    scene.otherwise = look
    grant = scene.grant(role="meta", purpose="propose")
    first = scene.models.chat(grant, HI, TOOLS, temperature=0.2, max_tokens=100)
    [call] = first.tool_calls
    assert (call.name, json.loads(call.arguments), first.finish_reason) == ("read", {"path": "a"}, "tool_calls")
    history = [*HI, first.message, {"role": "tool", "tool_call_id": call.id, "content": "text of a"}]
    second = scene.models.chat(grant, history, TOOLS, max_tokens=100)
    assert (second.text, second.finish_reason, second.tool_calls) == ("I read: text of a", "stop", ())
    assert first.usage.calls == second.usage.calls == 1
    assert scene.spent() == scene.counted() == (2, first.usage.tokens + second.usage.tokens)
    assert [record["purpose"] for record in scene.records()] == ["propose"] * 2
    body = scene.server.requests[0].body
    assert (body["temperature"], body["max_tokens"]) == (0.2, 100)


def test_a_grant_may_name_another_model_which_has_its_own_price(scene):
    entry = hosted(scene.server.base_url)
    dear = entry.model_copy(update={"model": "dear", "prices": TokenPrices(input=1000.0, output=1000.0)})
    scene.server.models = ("scripted", "dear")
    scene.models = GatewayService(
        {"meta": entry, ("meta", "dear"): dear}, scene.folder / "ledger", BudgetConfig(), scene.folder
    )
    cheap, priced = (scene.models.chat(scene.grant(role="meta", model=model), HI, []) for model in (None, "dear"))
    assert [request.model for request in scene.server.requests] == ["scripted", "dear"]
    assert priced.usage.usd == pytest.approx(priced.usage.tokens / 1000) and cheap.usage.usd < priced.usage.usd / 100
    with scene.session(role="meta", model="dear") as guest:
        assert guest.env["SIA_MODEL"] == "dear"
    with pytest.raises(ModelsError, match="no provider"):
        scene.models.chat(scene.grant(role="meta", model="other"), HI, [])


def test_settings_that_are_none_are_left_to_the_provider(scene):
    scene.open()
    scene.models.chat(scene.grant(), HI, [], temperature=None)
    assert not {"temperature", "tools"} & set(scene.server.requests[0].body)


def test_what_no_file_can_hold_is_not_handed_on(scene):
    scene.open()
    scene.otherwise = Malformed('{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}')
    reply = scene.models.chat(scene.grant(), HI, [])
    assert (reply.text, reply.message["content"]) == ("a?b", "a?b")


def test_two_proposals_that_begin_alike_are_two_samples(scene):
    scene.open(cache=True)
    scene.otherwise = lambda request: Answer(str(request.n))
    assert [scene.models.chat(scene.grant(), HI, []).text for _ in range(2)] == ["0", "1"]


def test_a_cut_answer_says_so(scene):
    scene.open()
    scene.otherwise = Answer("word " * 100)
    assert scene.models.chat(scene.grant(), HI, [], max_tokens=10).finish_reason == "length"


def test_what_fails_after_all_retries_is_a_provider_down(scene):
    scene.open(attempts=2)
    scene.otherwise = Status(503, message="busy")
    with pytest.raises(ProviderDown, match="busy"):
        scene.models.chat(scene.grant(), HI, [])
    assert scene.spent()[0] == scene.counted()[0] == 2


def test_an_invalid_request_is_said_in_one_line(scene):
    scene.open()
    scene.otherwise = Status(400, message="context length\nexceeded")
    with pytest.raises(ModelsError, match="custom.*context length"):
        scene.models.chat(scene.grant(), HI, [])


def test_several_threads_may_call_at_once(scene):
    scene.open(concurrency=8)
    scene.otherwise = lambda request: Answer(request.last)

    def one(n):
        return scene.models.chat(scene.grant(), [{"role": "user", "content": str(n)}], []).text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(40))) == [str(n) for n in range(40)]
    assert scene.spent() == scene.counted()


def test_closing_ends_a_call_that_waits(scene):
    scene.open(timeout=60.0)
    scene.otherwise = Hang(30)
    raised = []

    def ask():
        try:
            scene.models.chat(scene.grant(), HI, [])
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not scene.server.requests:
        time.sleep(0.01)
    scene.models.close()
    thread.join(5)
    assert raised and not thread.is_alive()
    assert scene.models.ledger.totals().total.usage().calls == 1


def test_each_role_has_its_own_provider(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "other-key")
    scene.open()
    from sia_runner.config.experiment import BudgetConfig

    with ProviderServer(lambda _: Answer("other"), models=("big",), keys=("other-key",)) as other:
        meta = hosted(other.base_url, api="anthropic", model="big", key="OTHER_KEY")
        models = GatewayService(
            {"meta": meta, "target": hosted(scene.server.base_url)}, tmp_path / "l", BudgetConfig(), tmp_path / "c"
        )
        models.check()
        assert models.chat(scene.grant(role="meta"), HI, []).text == "other"
        assert models.chat(scene.grant(role="target"), HI, []).text == "hello"
        models.close()
