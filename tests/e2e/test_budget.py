"""A budget is a promise: whatever prices and latencies are, what the provider can bill stays within it."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.experiment import BudgetConfig, SpendingLimits
from sia_runner.gateway.service import GatewayService
from sia_runner.wire.grants import BudgetSpent, Grant
from tests.conftest import Cli
from tests.provider import ProviderServer, Tally
from tests.scripts import riddles
from tests.scripts.serving import KEY, use
from tests.scripts.spending import spender

MILLION = 1e6
SEEDS = range(8)
ROUNDING = 1 + 1e-9
SHORT = ["meta_agent.max_tokens=400"]  # what is reserved for an answer must fit into budgets as small as these


def drawn(seed: int) -> tuple[TokenPrices, float]:
    """Prices in dollars per million tokens, and what 100 calls of 400 tokens each way would cost."""
    chance = random.Random(seed)
    prices = TokenPrices(input=round(10 ** chance.uniform(-1, 1.2), 3), output=round(10 ** chance.uniform(-1, 2), 3))
    return prices, 100 * 400 * (prices.input + prices.output) / MILLION


def billed(tally: Tally, prices: TokenPrices) -> float:
    return (tally.input_tokens * prices.input + tally.output_tokens * prices.output) / MILLION


# --- the gateway's room alone: 64 callers at once until nothing is left ---


def hosted(base_url: str, prices: TokenPrices) -> HostedProvider:
    return HostedProvider(
        name="custom",
        kind="hosted",
        api="openai",
        litellm="openai",
        model="scripted",
        base_url=base_url,
        key="SIA_TEST_KEY",
        prices=prices,
        concurrency=64,
    )


def spend_all(room: GatewayService, folder: Path) -> int:
    """64 threads call until each is told that nothing is left; returns how many calls were answered."""
    grant = Grant("target", 1, "gen_1", "select", folder / "trajectories.jsonl")
    messages = [{"role": "user", "content": "How much is left? " * 20}]

    def caller(_: int) -> int:
        for count in range(1000):
            try:
                room.chat(grant, messages, (), max_tokens=200)
            except BudgetSpent as usage:
                assert usage.scope == "run"
                return count
        raise AssertionError("the budget never ends")

    with ThreadPoolExecutor(64) as pool:
        return sum(pool.map(caller, range(64)))


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_64_callers_use_a_budget_up_and_never_pass_it(tmp_path, monkeypatch, seed):
    spend_within(tmp_path, monkeypatch, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[2:])
def test_64_callers_never_pass_a_budget_whatever_the_seed(tmp_path, monkeypatch, seed):
    spend_within(tmp_path, monkeypatch, seed)


def spend_within(folder: Path, monkeypatch, seed: int) -> None:
    monkeypatch.setenv(*next(iter(KEY.items())))
    prices, usd = drawn(seed)
    budget = BudgetConfig(usd=usd, test_reserve=0.0, generation=SpendingLimits())
    with ProviderServer(spender(seed)) as server:
        room = GatewayService({"target": hosted(server.base_url, prices)}, folder / "ledger", budget, folder / "cache")
        try:
            answered = spend_all(room, folder)
        finally:
            room.close()
        assert not server.errors
        assert billed(server.tally, prices) <= usd * ROUNDING
        assert billed(server.tally, prices) > usd * 0.5  # it is of use, too
        assert server.tally.answered == answered > 0


# --- whole runs ---


def whole_run(cli: Cli, task: list[str], seed: int, share: float, *more: str):
    """A run whose budget is `share` of what it might need. Returns (process, dollars allowed, dollars billed)."""
    prices, usd = drawn(seed)
    limit = round(usd * share, 6)
    with ProviderServer(spender(seed)) as server:
        overrides = [*task, *use(server.base_url), "meta_agent=llm", *SHORT, "max_gen=3", f"budget.usd={limit}"]
        overrides += [f"provider.prices={{input: {prices.input}, output: {prices.output}}}", "search=last"]
        done = cli(*overrides, f"hydra.run.dir={cli.run}", *more, env=KEY)
        assert not server.errors
        return done, limit, billed(server.tally, prices)


@pytest.fixture
def task(tmp_path):
    return riddles.make(tmp_path)


def test_a_run_that_hits_its_budget_says_so_and_still_tests_the_best_candidate_within_the_reserve(cli, task):
    """Enough for the first generation and its test, not for all three."""
    done, limit, usage = whole_run(cli, task, 3, 0.4)
    output = done.stdout + done.stderr
    assert cli.summary["status"] == "budget", output
    assert usage <= limit * ROUNDING
    assert cli.summary["usage"]["usd"] <= limit * ROUNDING
    assert "budget spent" in output
    assert cli.summary["best"]["test"]["n"] == 24
    assert done.returncode == 0, output


@pytest.mark.slow
def test_a_budget_too_small_for_anything_ends_with_4_and_nothing_scored(cli, task):
    done, limit, usage = whole_run(cli, task, 4, 0.02)
    assert done.returncode == 4, done.stdout + done.stderr
    assert cli.summary["status"] == "budget"
    assert cli.summary["best"] is None
    assert usage <= limit * ROUNDING


@pytest.mark.slow
def test_a_resume_with_a_larger_budget_goes_on(cli, task, monkeypatch):
    monkeypatch.setenv(*next(iter(KEY.items())))
    prices, usd = drawn(5)
    with ProviderServer(spender(5)) as server:
        overrides = [*task, *use(server.base_url), "meta_agent=llm", *SHORT, "max_gen=2", f"budget.usd={usd * 0.1}"]
        overrides += [f"provider.prices={{input: {prices.input}, output: {prices.output}}}"]
        assert cli(*overrides, f"hydra.run.dir={cli.run}").returncode == 4
        done = cli(f"resume={cli.run}", f"budget.usd={usd * 50}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert cli.summary["status"] == "completed"
        assert cli.summary["usage"]["usd"] == pytest.approx(billed(server.tally, prices))


@pytest.mark.slow
def test_a_limit_on_calls_and_one_on_tokens_hold_as_well(tmp_path_factory, task):
    for limit in ("budget.calls=100", "budget.tokens=30000"):
        cli = Cli(tmp_path_factory.mktemp("limited"))
        done, _, _ = whole_run(cli, task, 6, 1000, limit)
        assert done.returncode in (0, 4), done.stdout + done.stderr
        assert cli.summary["status"] == "budget"
        name, _, most = limit.removeprefix("budget.").partition("=")
        assert 0 < cli.summary["usage"][name] <= int(most), json.dumps(cli.summary["usage"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_seeded_runs_stop_within_their_budget(tmp_path_factory):
    task = riddles.make(tmp_path_factory.mktemp("task"))
    hit = 0
    for seed in SEEDS:
        cli = Cli(tmp_path_factory.mktemp(f"seed{seed}"))
        share = 10 ** random.Random(seed).uniform(-1.5, 1.0)
        done, limit, usage = whole_run(cli, task, seed, share)
        said = f"seed {seed}: {done.stdout}{done.stderr}"
        assert usage <= limit * ROUNDING, said
        summary = cli.summary
        assert summary["usage"]["usd"] <= limit * ROUNDING, said
        assert summary["status"] in ("completed", "budget"), said
        tested = bool(summary["best"] and summary["best"]["test"])
        assert done.returncode == (0 if tested else 4), said
        hit += summary["status"] == "budget"
    assert 2 <= hit < len(SEEDS)  # some are large enough, most are not
