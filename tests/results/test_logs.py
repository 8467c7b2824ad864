"""Logs: which there are, and what came since."""

from pathlib import Path

from sia_runner.results.outputs import MAX_LOG_BYTES, list_logs, read_tail

OWN = str(Path("gen_2", "work", "own.log"))  # a harness wrote it


def test_logs_of_generations_tests_and_jobs_are_listed_and_a_harness_own_are_not(tmp_path):
    for path in (
        "gen_10/stdout.log",
        "gen_2/stdout.log",
        "gen_2/gate/stdout.log",
        "test/gen_2/stdout.log",
        "jobs/gen_2/run/7_0_log.err",
        OWN,
        "gen_2/submission/x.log",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    result = list(list_logs(tmp_path))
    assert sorted(result) == [
        "gen_10/stdout.log",
        "gen_2/gate/stdout.log",
        "gen_2/stdout.log",
        "jobs/gen_2/run/7_0_log.err",
        "test/gen_2/stdout.log",
    ]
    assert result.index("gen_2/stdout.log") < result.index("gen_10/stdout.log")
    for other in (OWN, "config.yaml", "journal.jsonl", "../x.log", "ledger/a.log", "jobs/../../x.log"):
        assert read_tail(tmp_path, other) is None, other


def test_a_tail_follows(tmp_path):
    (tmp_path / "gen_1").mkdir()
    log = tmp_path / "gen_1" / "stdout.log"
    log.write_text("one\n")
    first = read_tail(tmp_path, "gen_1/stdout.log")
    assert (first.text, first.end) == ("one\n", 4)
    assert read_tail(tmp_path, "gen_1/stdout.log", 4).text == ""
    log.open("a").write("two\n")
    assert read_tail(tmp_path, "gen_1/stdout.log", 4).text == "two\n"
    log.write_text("x")
    assert read_tail(tmp_path, "gen_1/stdout.log", 8).text == "x"


def test_of_a_huge_log_the_end_is_shown(tmp_path):
    (tmp_path / "gen_1").mkdir()
    (tmp_path / "gen_1" / "stdout.log").write_bytes(b"a" * (3 * MAX_LOG_BYTES) + b"end")
    result = read_tail(tmp_path, "gen_1/stdout.log", 5)
    assert (len(result.data), result.start, result.size) == (
        MAX_LOG_BYTES,
        2 * MAX_LOG_BYTES + 3,
        3 * MAX_LOG_BYTES + 3,
    )
    assert result.text.endswith("end")
