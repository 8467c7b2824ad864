"""One run as it grows."""

import json

from sia_runner.results.run import RunReader, SpendingReader, read_test_results
from sia_runner.results.web.data import run_page
from sia_runner.store.lease import RunLease
from tests.results import writing
from tests.results.writing import done, generation, journal, start, summary


def looked(run):
    run.refresh()
    return run


def test_generations_appear_as_the_journal_grows(tmp_path):
    summary(tmp_path, status="running")
    run = RunReader(tmp_path)
    assert looked(run).generations == []
    with RunLease(tmp_path):
        journal(tmp_path, *generation(1), start(2, "propose"))
        first, second = looked(run).generations
        assert (first.status, first.val.value, first.title) == ("accepted", 0.5, "change 1")
        assert (second.status, second.step) == ("under way", "propose")
        assert not run.refresh()
        journal(tmp_path, done(2, "propose", lever="weights", title="train", parent=1), start(2, "build"))
        assert run.refresh()
        assert run.generations[1].step == "build"
    assert looked(run).generations[1].status == "cut"


def test_what_the_summary_has_is_the_same(tmp_path):
    """The dashboard's own reading of the journal and summary.py's must not come apart."""
    from sia_runner.store.journal import JournalReader, finished_generations

    summary(tmp_path)
    journal(tmp_path, *generation(1), *generation(2, "rejected", 0.4))
    theirs = finished_generations(JournalReader(tmp_path / "journal.jsonl"))
    assert looked(RunReader(tmp_path)).generations == theirs and len(theirs) == 2


def test_medals_are_those_of_the_test_and_what_is_no_standing_is_left_out(tmp_path):
    summary(tmp_path)
    stands = {"graded_by": "sia_runner", "score": 0.5, "note": ""}
    given = [stands, None, "gold", {"score": "high"}, stands | {"medal": "gold"}]
    events = [done(n, "verify", generation=n, standing=item) for n, item in enumerate(given, 1)]
    tests = [(name, fields | {"step": f"test/gen_{n}"}) for n, (name, fields) in enumerate(events, 1)]
    journal(tmp_path, *tests)
    lines = [test.leaderboard for test in read_test_results(looked(RunReader(tmp_path)).journal)]
    assert lines == [["our own grader: 0.50000; no leaderboard is at hand, so no medal"], [], [], [], []]


def test_an_edited_journal_is_shown_and_said(tmp_path):
    summary(tmp_path)
    journal(tmp_path, *generation(1))
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    (tmp_path / "journal.jsonl").write_text("\n".join([lines[0], *lines[2:], "no json"]) + "\n")
    run = looked(RunReader(tmp_path))
    assert "line 2 does not follow" in run_page(run, "")["fault"]
    assert run.generations[0].status == "accepted"


def test_entries_of_any_shape_are_passed_over(tmp_path):
    summary(tmp_path)
    strange = [
        {},
        {"step": 3, "result": {}},
        {"step": "gen_x/run", "result": {}},
        {"step": "gen_1/verify", "result": {"val": "high", "outcomes": []}, "seconds": None, "at": 3},
        {"step": "gen_1/build", "result": {"reward": ["a", None, 1e400], "algorithm": 3}},
    ]
    strange = [*({"event": "done"} | entry for entry in strange), [1]]
    (tmp_path / "journal.jsonl").write_text("\n".join(map(json.dumps, strange)) + "\n")
    run = looked(RunReader(tmp_path))
    assert [item.n for item in run.generations] == [1]
    assert run.generations[0].val is None
    assert run_page(run, "")["minutes"] == 0


def test_a_cut_run_says_how_to_go_on(tmp_path):
    def resume(name):
        return run_page(looked(RunReader(tmp_path / name)), name)["resume"]

    summary(tmp_path / "my run", status="running")
    assert resume("my run") == f"python -m sia_runner resume='{tmp_path}/my run'"
    summary(tmp_path / "done")
    assert resume("done") == ""
    summary(tmp_path / "asks", status="interrupted", waits=2)
    assert resume("asks").startswith("python -m sia_runner approve ")


def test_spending_is_the_ledgers_between_generations_too(tmp_path):
    from sia_runner.gateway.ledger_files import read_totals

    summary(tmp_path)
    (tmp_path / "ledger").mkdir()
    sent = {
        "sent": 1,
        "generation": 2,
        "candidate": "gen_2",
        "purpose": "select",
        "input": 100,
        "output": 50,
        "usd": 0.01,
    }
    settled = {"done": 1, "input": 90, "output": 10, "cached": 0, "usd": 0.002}
    lease = {"lease": "p", "process": {"host": "h", "pid": 1}, "holds": {}, "closed": True}
    (tmp_path / "ledger" / "leases.jsonl").write_text(json.dumps(lease) + "\n")
    (tmp_path / "ledger" / "p.jsonl").write_text(
        json.dumps(sent) + "\n" + json.dumps(settled) + "\n" + json.dumps(sent | {"sent": 2}) + "\n"
    )
    spent = looked(RunReader(tmp_path)).spending
    theirs = read_totals(tmp_path / "ledger").total
    assert spent.total == theirs == spent.of(generation=2)
    assert theirs.to_json() | {"usd": 0.012, "tokens": 250, "calls": 2} == theirs.to_json()


def test_a_long_ledger_is_added_up_in_slices(tmp_path):
    summary(tmp_path)
    (tmp_path / "ledger").mkdir()
    account = {"generation": 1, "candidate": "gen_1", "purpose": "select", "input": 1, "output": 1, "usd": 0.0}
    with (tmp_path / "ledger" / "p.jsonl").open("w") as ledger:
        for number in range(20_000):
            ledger.write(json.dumps({"sent": number} | account) + "\n")
            ledger.write(json.dumps({"done": number, "input": 1, "output": 1, "cached": 0, "usd": 0.0}) + "\n")
    spending, slices = SpendingReader(tmp_path), 1
    while not spending.refresh(seconds=0.0):
        slices += 1
    assert slices > 2
    assert spending.totals(alive=False).total.calls == 20_000
    run = looked(RunReader(tmp_path))
    while not run.complete:
        run.refresh()
    assert run.spending.total.calls == 20_000


def test_jobs_are_those_of_the_journal(tmp_path):
    summary(tmp_path)
    jobs = [
        ("job", {"step": "gen_1/run", "kind": "run", "job": name, "folder": "jobs/gen_1/run"}) for name in ("7", "8")
    ]
    journal(tmp_path, *jobs, done(1, "run"))
    jobs = run_page(looked(RunReader(tmp_path)), "")["jobs"]
    assert [(job["job"], job["state"]) for job in jobs] == [("8", "done"), ("7", "replaced")]


class TestCurves:
    def test_of_a_finished_update_they_are_the_journals(self, tmp_path):
        summary(tmp_path)
        built = done(1, "build", reward=[0.1, 0.2], kl=[0.0, 0.1], entropy=[], algorithm={"steps": 2})
        journal(tmp_path, done(1, "propose", lever="weights", title=""), built)
        run = RunReader(tmp_path)
        run.refresh()
        assert run.curves() == {1: {"reward": [(1, 0.1), (2, 0.2)], "kl": [(1, 0.0), (2, 0.1)]}}

    def test_drift_is_among_them_where_it_was_measured(self, tmp_path):
        summary(tmp_path)
        drift = {"drift_kl": [0.001, None, 0.002], "drift_share": [0.0, None, 0.25]}
        journal(tmp_path, done(1, "propose", lever="weights", title=""), done(1, "build", reward=[0.1], **drift))
        (tmp_path / "gen_2").mkdir()
        (tmp_path / "gen_2" / "curve.jsonl").write_text(
            '{"step": 1, "drift_kl": 0.003, "drift_share": 0.5}\n{"step": 2, "drift_kl": NaN, "drift_share": NaN}\n'
        )
        run = looked(RunReader(tmp_path))
        drift = {"drift_kl": [(1, 0.001), (3, 0.002)], "drift_share": [(1, 0.0), (3, 0.25)]}
        assert run.curves()[1] == {"reward": [(1, 0.1)], **drift}
        journal(tmp_path, done(2, "propose", lever="weights", title=""), start(2, "build"))
        run = looked(RunReader(tmp_path))
        assert run.curves()[2] == {"drift_kl": [(1, 0.003)], "drift_share": [(1, 0.5)]}

    def test_under_way_they_grow_with_what_the_job_writes(self, tmp_path):
        summary(tmp_path)
        journal(tmp_path, done(1, "propose", lever="weights", title=""), start(1, "build"))
        (tmp_path / "gen_1").mkdir()
        curve = tmp_path / "gen_1" / "curve.jsonl"
        curve.write_text('hello\n{"step": 1, "reward": 0.25, "kl": 0.01, "entropy": 0.5, "tokens": 40}\n')
        run = RunReader(tmp_path)
        run.refresh()
        assert run.curves()[1]["reward"] == [(1, 0.25)]
        curve.open("a").write('{"step": 2, "reward": 0.5, "kl": NaN, "entropy": 0.4, "tokens": 40}\n')
        assert run.curves()[1] == {"reward": [(1, 0.25), (2, 0.5)], "kl": [(1, 0.01)], "entropy": [(1, 0.5), (2, 0.4)]}

    def test_a_step_that_a_resume_repeats_is_in_them_once(self, tmp_path):
        summary(tmp_path)
        journal(tmp_path, done(1, "propose", lever="both", title=""), start(1, "build"))
        (tmp_path / "gen_1").mkdir()
        lines = [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}, {"step": 2, "reward": 0.3}, {"step": "x"}, []]
        (tmp_path / "gen_1" / "curve.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        run = RunReader(tmp_path)
        run.refresh()
        assert run.curves() == {1: {"reward": [(1, 0.1), (2, 0.3)]}}


def test_the_helpers_of_this_test_write_what_a_run_writes(tmp_path):
    writing.call(tmp_path, 1, "id-1", "x")
    assert json.loads((tmp_path / "gen_1" / "trajectories.jsonl").read_text())["question"] == "id-1"
