"""The ledger: nothing is lost, nothing counted twice, no limit passed, however many callers and processes there are."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_runner.config.experiment import BudgetConfig, SpendingLimits
from sia_runner.gateway.ledger import RunLedger
from sia_runner.gateway.ledger_files import LedgerFile, read_totals
from sia_runner.gateway.prices import Rates
from sia_runner.records import Usage
from sia_runner.store.files import LineReader
from sia_runner.wire.grants import BudgetFullyReserved, BudgetSpent, Grant, ModelsError

DOLLAR = Rates(1.0, 1.0, 0.1, 1.0)  # a million tokens cost a dollar


def grant(**changes):
    plain = {"role": "target", "generation": 1, "candidate": "gen_1", "purpose": "select", "trajectories": Path("/x")}
    return Grant(**(plain | changes))


def ledger(folder, *, rates=DOLLAR, share=1.0, held_back=None, **budget):
    budget = BudgetConfig(**({"test_reserve": 0.0} | budget))
    return RunLedger(folder / "ledger", budget, {"target": rates, "meta": rates}, share=share, held_back=held_back)


def spend(run_ledger, of=None, tokens=100, used=None):
    of = of or grant()
    run_ledger.reserve(of, input_tokens=tokens, output_tokens=0).settle(
        input_tokens=tokens if used is None else used, output_tokens=0
    )


# --- counting ---


def test_what_was_settled_is_what_was_spent_and_not_what_was_reserved(tmp_path):
    run_ledger = ledger(tmp_path, usd=1.0)
    price = run_ledger.reserve(grant(), input_tokens=1000, output_tokens=4000).settle(
        input_tokens=900, output_tokens=100, cached_tokens=800
    )
    assert price == pytest.approx((100 + 80 + 100) / 1e6)
    assert run_ledger.usage() == Usage(price, 1000, 1)


def test_usage_is_kept_by_generation_candidate_and_purpose(tmp_path):
    run_ledger = ledger(tmp_path)
    spend(run_ledger, grant(purpose="gate"), 1)
    spend(run_ledger, grant(purpose="select"), 10)
    spend(run_ledger, grant(generation=2, candidate="gen_2"), 100)
    spend(run_ledger, grant(generation=2, candidate="trial_1f", purpose="trial"), 1000)
    assert run_ledger.usage(generation=1).tokens == 11
    assert run_ledger.usage(generation=2, candidate="gen_2").tokens == 100
    assert run_ledger.totals().of(purpose="trial").calls == 1
    assert read_totals(tmp_path / "ledger").total.usage() == run_ledger.usage() == Usage(1111 / 1e6, 1111, 4)


def test_a_call_that_never_left_is_undone_and_one_without_an_answer_is_counted_at_what_was_reserved(tmp_path):
    run_ledger = ledger(tmp_path)
    run_ledger.reserve(grant(), input_tokens=10, output_tokens=10).unanswered(may_be_charged=False)
    assert run_ledger.usage() == Usage()
    run_ledger.reserve(grant(), input_tokens=30, output_tokens=40).unanswered(may_be_charged=True)
    total = read_totals(tmp_path / "ledger").total
    assert total.usage() == Usage(70 / 1e6, 70, 1) and total.unanswered == 1


def test_what_a_provider_reports_beyond_what_was_asked_for_is_counted_as_it_is(tmp_path):
    run_ledger = ledger(tmp_path, tokens=100)
    spend(run_ledger, tokens=60, used=500)
    assert run_ledger.usage().tokens == 500
    with pytest.raises(BudgetSpent):
        spend(run_ledger, tokens=1)


def test_unknown_prices_are_said_and_never_zero(tmp_path):
    run_ledger = ledger(tmp_path, rates=None, tokens=1000)
    assert run_ledger.reserve(grant(), input_tokens=5, output_tokens=5).settle(input_tokens=5, output_tokens=5) is None
    total = run_ledger.totals().total
    assert not total.priced and total.unpriced == 1 and total.calls == 1
    with pytest.raises(ModelsError, match="prices"):
        spend(ledger(tmp_path / "b", rates=None, usd=1.0))


def test_the_ledger_of_a_run_without_calls_writes_nothing(tmp_path):
    run_ledger = ledger(tmp_path, usd=1.0)
    assert run_ledger.usage() == Usage() and read_totals(tmp_path / "ledger").total.calls == 0
    run_ledger.close()
    assert not (tmp_path / "ledger").exists()


# --- limits ---


def test_a_spent_limit_is_told_in_one_line_with_whose_it_is(tmp_path):
    run_ledger = ledger(tmp_path, usd=0.001)
    spend(run_ledger, tokens=900)
    with pytest.raises(BudgetSpent) as caught:
        spend(run_ledger, tokens=200)
    assert caught.value.scope == "run"
    assert str(caught.value) == "budget.usd=0.001: 0.0009 spent; the next call may take 0.0002"


def test_a_limit_that_calls_under_way_may_leave_is_crowded_and_not_spent(tmp_path):
    run_ledger = ledger(tmp_path, calls=2)
    first, second = (run_ledger.reserve(grant(), input_tokens=1, output_tokens=1) for _ in range(2))
    with pytest.raises(BudgetFullyReserved):
        run_ledger.reserve(grant(), input_tokens=1, output_tokens=1)
    first.unanswered(may_be_charged=False)
    third = run_ledger.reserve(grant(), input_tokens=1, output_tokens=1)
    for reservation in (second, third):
        reservation.settle(input_tokens=1, output_tokens=1)
    with pytest.raises(BudgetSpent):
        run_ledger.reserve(grant(), input_tokens=1, output_tokens=1)


def test_those_who_were_told_crowded_are_woken_when_a_call_is_settled(tmp_path):
    run_ledger, woken = ledger(tmp_path, calls=1), []
    run_ledger.on_settled(lambda: woken.append(1))
    reservation = run_ledger.reserve(grant(), input_tokens=1, output_tokens=1)
    assert not woken
    reservation.unanswered(may_be_charged=True)
    assert woken == [1]


def test_each_generation_has_its_own_budget_and_the_final_test_has_none(tmp_path):
    run_ledger = ledger(tmp_path, generation=SpendingLimits(calls=1))
    spend(run_ledger, grant(generation=1))
    with pytest.raises(BudgetSpent) as caught:
        spend(run_ledger, grant(generation=1))
    assert caught.value.scope == "generation" and str(caught.value).startswith("budget.generation.calls=1: 1 spent")
    spend(run_ledger, grant(generation=2))
    for _ in range(3):
        spend(run_ledger, grant(generation=0, purpose="test"))


def test_a_grant_may_have_a_limit_of_its_own_and_a_call_turned_down_is_no_turn(tmp_path):
    run_ledger, guest = ledger(tmp_path), grant(calls=2)
    spend(run_ledger, guest, used=0)  # a 429: the provider answered, with nothing
    spend(run_ledger, guest)
    reservation = run_ledger.reserve(guest, input_tokens=1, output_tokens=1)
    with pytest.raises(BudgetFullyReserved):
        spend(run_ledger, guest)
    reservation.unanswered(may_be_charged=True)
    with pytest.raises(BudgetSpent) as caught:
        spend(run_ledger, guest)
    assert caught.value.scope == "grant" and run_ledger.usage().calls == 3
    spend(run_ledger, grant(calls=2))  # the same step done again has its turns again


def test_the_runs_limit_is_told_before_a_generations(tmp_path):
    run_ledger = ledger(tmp_path, calls=1, generation=SpendingLimits(calls=1))
    spend(run_ledger)
    with pytest.raises(BudgetSpent) as caught:
        spend(run_ledger)
    assert caught.value.scope == "run"


# --- what is kept for the final test ---


def test_only_the_final_test_may_touch_the_reserve(tmp_path):
    run_ledger = ledger(tmp_path, calls=10, test_reserve=0.2)
    for _ in range(8):
        spend(run_ledger)
    with pytest.raises(BudgetSpent, match="8 spent, 2 "):
        spend(run_ledger)
    for _ in range(2):
        spend(run_ledger, grant(purpose="test", generation=0))
    with pytest.raises(BudgetSpent):
        spend(run_ledger, grant(purpose="test", generation=0))


def test_the_reserve_grows_with_what_the_test_was_measured_to_need_and_holds_for_what_was_taken_before(tmp_path):
    needed = Usage()
    run_ledger = ledger(tmp_path, calls=10, test_reserve=0.1, held_back=lambda: needed)
    spend(run_ledger)
    needed = Usage(calls=8)
    spend(run_ledger)
    with pytest.raises(BudgetSpent, match="8 kept"):
        spend(run_ledger)


def test_the_test_spends_its_reserve_and_a_resumed_run_holds_another_one_back(tmp_path):
    run_ledger = ledger(tmp_path, calls=10, test_reserve=0.2)
    for _ in range(2):
        spend(run_ledger, grant(purpose="test", generation=0))
    for _ in range(6):
        spend(run_ledger)
    with pytest.raises(BudgetSpent):
        spend(run_ledger)


# --- many callers ---


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 0.3]))
def test_sixty_four_callers_with_random_amounts_never_pass_a_limit(tmp_path_factory, seed, share):
    """Random amounts, purposes and endings; nothing is lost or counted twice."""
    folder = tmp_path_factory.mktemp("run")
    run_ledger = ledger(
        folder, usd=0.05, tokens=60_000, share=share, test_reserve=0.1, generation=SpendingLimits(tokens=40_000)
    )
    settled = []

    def caller(n):
        random_ = random.Random(seed + n)
        for turn in range(6):
            mine = grant(generation=1 + turn % 2, purpose=random_.choice(["select", "select", "test"]))
            bounds = random_.randrange(1, 900), random_.randrange(1, 900)
            try:
                reservation = run_ledger.reserve(mine, input_tokens=bounds[0], output_tokens=bounds[1])
            except (BudgetSpent, BudgetFullyReserved):
                continue
            if random_.random() < 0.2:
                reservation.unanswered(may_be_charged=random_.random() < 0.5)
            else:
                used = [random_.randrange(0, bound + 1) for bound in bounds]
                reservation.settle(input_tokens=used[0], output_tokens=used[1])
                settled.append(sum(used))

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(caller, range(64)))
    total, rows = read_totals(folder / "ledger").total, run_ledger.totals()
    assert total.dollars <= 0.05 and total.input_tokens + total.output_tokens <= 60_000
    assert rows.of(generation=1).usage().tokens <= 40_000 and rows.of(generation=2).usage().tokens <= 40_000
    assert total.usage() == run_ledger.usage() and total.calls - total.unanswered == len(settled)
    assert rows.in_flight == 0


PROCESS = """
import random, sys, time
from pathlib import Path
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.ledger import RunLedger
from sia_runner.gateway.prices import Rates
from sia_runner.wire.grants import BudgetSpent, BudgetFullyReserved, Grant
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
budget = BudgetConfig(usd=0.02, calls=300, test_reserve=0.0)
run_ledger = RunLedger(folder, budget, {"target": Rates(1, 1, 1, 1)}, share=0.2)
grant, random_ = Grant("target", 1, f"gen_{seed}", "select", Path("/x")), random.Random(seed)
deadline = time.time() + 20
while time.time() < deadline:
    try:
        bounds = random_.randrange(1, 200), random_.randrange(1, 200)
        reservation = run_ledger.reserve(grant, input_tokens=bounds[0], output_tokens=bounds[1])
    except BudgetSpent:
        break
    except BudgetFullyReserved:
        time.sleep(0.002)
        continue
    reservation.settle(input_tokens=1, output_tokens=random_.randrange(0, 99))
else:
    sys.exit("never told that the budget is spent")
run_ledger.close()
"""


def test_gateways_in_several_processes_never_pass_a_limit_together_and_use_all_of_it(tmp_path):
    folder = tmp_path / "ledger"
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(folder), str(n)], stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    for process in running:
        assert process.wait(60) == 0, process.stderr.read()
    total = read_totals(folder).total
    assert total.dollars <= 0.02 and 290 <= total.calls <= 300 and total.unanswered == 0


def test_one_process_waits_for_what_another_holds_and_is_woken_when_it_is_given_back(tmp_path):
    holder, other = ledger(tmp_path, calls=1, share=0.5), ledger(tmp_path, calls=1, share=0.5)
    reservation, woken = holder.reserve(grant(), input_tokens=1, output_tokens=1), threading.Event()
    other.on_settled(woken.set)
    with pytest.raises(BudgetFullyReserved):
        spend(other)
    reservation.unanswered(may_be_charged=False)
    assert woken.wait(5)
    spend(other)


def test_a_lease_that_is_closed_gives_back_what_it_did_not_spend(tmp_path):
    job, driver = ledger(tmp_path, tokens=100, share=0.9), ledger(tmp_path, tokens=100, share=0.9)
    reservation = job.reserve(grant(), input_tokens=10, output_tokens=0)
    with pytest.raises(BudgetFullyReserved):
        spend(driver, tokens=50)
    reservation.settle(input_tokens=10, output_tokens=0)
    job.close()
    job.close()
    spend(driver, tokens=90)
    with pytest.raises(BudgetSpent):
        spend(driver, tokens=1)


# --- kills ---

KILLED = """
import os, signal, sys
from pathlib import Path
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.ledger import RunLedger
from sia_runner.gateway.prices import Rates
from sia_runner.wire.grants import Grant
rates = {"target": Rates(1, 1, 1, 1)}
run_ledger = RunLedger(Path(sys.argv[1]), BudgetConfig(calls=10, test_reserve=0.0), rates, share=float(sys.argv[2]))
grant = Grant("target", 1, "gen_1", "select", Path("/x"))
for n in range(3):
    run_ledger.reserve(grant, input_tokens=5, output_tokens=5).settle(input_tokens=1, output_tokens=1)
run_ledger.reserve(grant, input_tokens=50, output_tokens=50)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_after_a_kill_all_that_was_sent_is_counted_and_the_rest_of_the_lease_is_free_again(tmp_path, share):
    folder = tmp_path / "ledger"
    subprocess.run([sys.executable, "-c", KILLED, str(folder), str(share)], check=False)
    total = read_totals(folder).total
    assert total.usage() == Usage(106 / 1e6, 106, 4) and total.unanswered == 1
    resumed = ledger(tmp_path, calls=10, share=share)
    assert resumed.usage() == total.usage()
    for _ in range(6):
        spend(resumed)
    with pytest.raises(BudgetSpent):
        spend(resumed)


def test_a_resumed_run_with_another_limit_counts_what_was_spent_before_it_was_limited(tmp_path):
    before = ledger(tmp_path)
    for _ in range(3):
        spend(before)
    before.close()
    after = ledger(tmp_path, calls=4)
    spend(after)
    with pytest.raises(BudgetSpent, match=r"budget\.calls=4.* 4 spent"):
        spend(after)


def test_calls_under_way_in_a_process_that_lives_are_not_called_unanswered(tmp_path):
    run_ledger = ledger(tmp_path)
    reservation = run_ledger.reserve(grant(), input_tokens=5, output_tokens=5)
    snapshot = read_totals(tmp_path / "ledger")
    assert snapshot.in_flight == 1 and snapshot.total.calls == 0
    reservation.settle(input_tokens=1, output_tokens=1)
    assert read_totals(tmp_path / "ledger").in_flight == 0


def test_calls_under_way_at_the_end_are_calls_without_an_answer(tmp_path):
    run_ledger = ledger(tmp_path)
    late = run_ledger.reserve(grant(), input_tokens=5, output_tokens=5)
    run_ledger.close()
    late.settle(input_tokens=1, output_tokens=1)
    assert read_totals(tmp_path / "ledger").total.unanswered == run_ledger.totals().total.unanswered == 1
    with pytest.raises(RuntimeError, match="closed"):
        spend(run_ledger)


def test_a_line_that_a_full_disk_cut_loses_only_itself(tmp_path):
    run_ledger = ledger(tmp_path)
    spend(run_ledger)
    run_ledger.close()
    (path,) = [p for p in (tmp_path / "ledger").glob("*.jsonl") if p.name != "leases.jsonl"]
    path.write_bytes(path.read_bytes() + b'{"sent": 2, "gener\n' + b'{"sent":')
    assert read_totals(tmp_path / "ledger").total.calls == 1
    with (tmp_path / "ledger" / "leases.jsonl").open("ab") as stream:
        stream.write(b'{"lease": "x", "hol')
    again = ledger(tmp_path)
    spend(again)
    again.close()
    assert read_totals(tmp_path / "ledger").total.calls == 2


def test_a_write_that_fails_lets_no_call_through(tmp_path):
    run_ledger = ledger(tmp_path)
    spend(run_ledger)
    full = os.open("/dev/full", os.O_WRONLY)
    run_ledger._file, real = full, run_ledger._file
    with pytest.raises(OSError):
        spend(run_ledger)
    run_ledger._file = real
    os.close(full)
    spend(run_ledger)
    assert run_ledger.usage().calls == 2 == read_totals(tmp_path / "ledger").total.calls


def test_a_book_that_is_read_while_it_is_written_takes_whole_lines_only(tmp_path):
    path, run_ledger, lines = tmp_path / "a.jsonl", LedgerFile(), LineReader(tmp_path, "a.jsonl")
    announced = {"sent": 1, "generation": 1, "candidate": "c", "purpose": "p", "input": 1, "output": 1, "usd": None}
    content = (
        json.dumps(announced) + "\n" + json.dumps({"done": 1, "input": 1, "output": 1, "cached": 0, "usd": None}) + "\n"
    )
    for end in range(0, len(content) + 1, 7):
        path.write_text(content[:end])
        run_ledger.catch_up(lines)
    path.write_text(content)
    run_ledger.catch_up(lines)
    run_ledger.catch_up(lines)
    assert [row.calls for row in run_ledger.rows.values()] == [1] and not run_ledger.under_way


# --- speed ---


def test_reserving_and_settling_takes_well_below_a_millisecond(tmp_path):
    run_ledger, many = ledger(tmp_path, usd=1e6, tokens=10**9, calls=10**6), 2000
    spend(run_ledger)
    began = time.process_time()
    for _ in range(many):
        spend(run_ledger)
    assert (time.process_time() - began) / many < 0.0005
