"""Whole runs with every misbehaviour of a provider: each ends in a refusal before the start, or a resumable stop.

There is never a traceback, and never a wrong answer counted against a candidate for what the provider did.
"""

import os
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.provider import Answer, Endless, Hang, Huge, Malformed, ProviderServer, Request, Reset, Status, Truncated
from tests.scripts import proposer, riddles
from tests.scripts.checks import essence
from tests.scripts.harnesses import NAIVE, harness
from tests.scripts.serving import KEY, use

REFUSED, INTERRUPTED = 2, 130
HASTY_RETRIES = ["provider.attempts=2", "provider.max_wait_seconds=2", "provider.timeout=2"]


@pytest.fixture
def task(tmp_path):
    """Overrides that choose the riddles, which lie in tmp_path."""
    return riddles.make(tmp_path)


def overrides(cli, task, base_url, *more):
    return [*task, *use(base_url), "meta_agent=llm", "max_gen=1", f"hydra.run.dir={cli.run}", *more]


def run(cli, task, base_url, *more, env=None, **kwargs):
    return cli(*overrides(cli, task, base_url, *more), env=KEY if env is None else env, **kwargs)


def start(cli, task, base_url, *more):
    return cli.start(*overrides(cli, task, base_url, *more), env={**os.environ, **KEY})


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_mb(started):
    """Most memory that the run held, in MB, sampled until it ends. Not wait4's ru_maxrss: across fork and exec that
    begins with what the parent held, here a test process that has grown for minutes."""
    peak = 0
    while started.poll() is None:
        with suppress(OSError):
            status = Path(f"/proc/{started.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) // 1024 for line in status.splitlines() if "VmHWM" in line)])
        time.sleep(0.05)
    return peak


@pytest.fixture
def within():
    """``with within(2):`` the processes run inside take so many seconds of processor time at most: other work on the
    machine does not stretch that as it does wall time. What is waited for is bounded by five seconds."""

    @contextmanager
    def bounded(seconds):
        began, used = time.monotonic(), processor_seconds()
        yield
        spent = processor_seconds() - used
        assert spent < seconds, f"{spent:.2f} s of processor time"
        assert time.monotonic() - began < 5 + 5 * spent

    return bounded


def assert_refused(done, cli, *said):
    assert done.returncode == REFUSED, done.stdout + done.stderr
    assert done.stderr.startswith("refused: ") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for text in said:
        assert text in done.stderr, done.stderr
    assert KEY["SIA_TEST_KEY"] not in done.stderr
    assert not cli.run.exists()


def yes(request: Request) -> Answer:
    """A proposer that submits the reference as it is, and a target that always says the same."""
    return proposer.answer(request) if proposer.is_proposer(request) else Answer("Answer: nothing")


# --- before the start: one line, exit 2, under two seconds ---


def test_a_missing_key_is_refused_at_once_and_named(cli, task, within):
    with within(2):
        done = run(cli, task, "http://127.0.0.1:9/v1", env={"SIA_TEST_KEY": ""})
    assert_refused(done, cli, "SIA_TEST_KEY")


def test_a_wrong_key_is_refused_at_once_without_showing_it(cli, task, within):
    with ProviderServer(yes, keys=("another",)) as server:
        with within(2):
            done = run(cli, task, server.base_url)
    assert_refused(done, cli, "key")
    assert server.tally.calls == 0


def test_a_dead_endpoint_is_refused_at_once_with_its_address(cli, task, within):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with within(2):
        done = run(cli, task, url)
    assert_refused(done, cli, url.removesuffix("/v1"))


def test_an_endpoint_that_accepts_and_says_nothing_is_refused_within_two_seconds_too(cli, task, within):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with within(2):
            done = run(cli, task, f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
    assert_refused(done, cli, "does not answer")


def test_an_unknown_model_is_refused_with_the_nearest_name(cli, task, within):
    with ProviderServer(yes) as server:
        with within(2):
            done = run(cli, task, server.base_url, "provider.model=scriptd")
    assert_refused(done, cli, "scriptd", "scripted")


HIDING = """
import importlib.machinery
found = importlib.machinery.PathFinder.find_spec
def hide(name, path=None, target=None):
    return None if name.split(".")[0] in ("litellm", "aiohttp") else found(name, path, target)
importlib.machinery.PathFinder.find_spec = hide
"""


def test_a_missing_extra_is_refused_at_once_with_what_to_install(cli, task, within, tmp_path):
    """An environment without the extra is simulated: the interpreter is told at its start not to find the packages."""
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    with ProviderServer(yes) as server:
        env = {**KEY, "PYTHONPATH": str(tmp_path)}
        with within(2):
            done = run(cli, task, server.base_url, env=env)
    assert_refused(done, cli, "pip install 'sia-runner[models]'")


@pytest.mark.parametrize("key", ["provider=offline", "provider=anthropic"])
def test_a_language_model_without_provider_or_key_is_refused_in_under_a_second(cli, within, key):
    with within(1.5):
        done = cli("task=smoke", "meta_agent=llm", key, env={"ANTHROPIC_API_KEY": ""})
    assert_refused(done, cli, "provider")


# --- in the middle: a resumable stop ---


def assert_stopped_resumable(done, cli):
    assert done.returncode == INTERRUPTED, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert f"resume={cli.run}" in said
    assert len([line for line in said.splitlines() if line.startswith("stopped: ")]) == 1, said
    assert KEY["SIA_TEST_KEY"] not in said
    assert cli.summary["status"] == "interrupted"
    assert not [g for g in cli.summary["generations"] if g["status"] == "failed"], "the candidate is not to blame"


def test_a_proposal_that_is_refused_for_a_permanent_reason_stops_the_run_at_the_first(cli, task):
    refusal = Status(400, message="registry/tiny does not support tools, asked with test-key")

    def no_tools(request: Request):
        return refusal if request.tools else yes(request)

    with ProviderServer(no_tools) as server:
        done = run(cli, task, server.base_url, "max_gen=4")
        assert_stopped_resumable(done, cli)
        assert "does not support tools" in done.stdout and server.tally.calls == 1
        server.script = yes
        assert cli(f"resume={cli.run}", "max_gen=1", env=KEY).returncode == 0


def test_another_packages_agent_whose_requests_are_all_refused_stops_the_run_too(cli, task):
    pytest.importorskip("pydantic_ai")
    refused = Status(400, message="registry/tiny does not support tools")
    with ProviderServer(lambda request: refused if request.tools else yes(request)) as server:
        done = cli(*overrides(cli, task, server.base_url, "meta_agent=pydantic_ai", "max_gen=3"), env=KEY)
    assert_stopped_resumable(done, cli)
    assert "does not support tools" in done.stdout


def test_proposals_that_are_refused_alike_later_on_stop_the_run_at_the_second(cli, task):
    def until_generation_2(request: Request):
        later = proposer.is_proposer(request) and "evidence/overview.md" in request.text
        return Status(400, message=f"prompt is too long: 9{request.n} tokens") if later else yes(request)

    with ProviderServer(until_generation_2) as server:
        done = run(cli, task, server.base_url, "max_gen=6")
    assert done.returncode == INTERRUPTED, done.stdout + done.stderr
    assert [g["status"] for g in cli.summary["generations"]] == ["accepted", "failed"]
    assert "prompt is too long" in done.stdout and "prompt is too long" in cli.summary["generations"][1]["reason"]


def only_target(reaction):
    """The proposer works, the target model's provider does not."""
    return lambda request: proposer.answer(request) if proposer.is_proposer(request) else reaction


FATAL = {
    "401": Status(401, message="key revoked"),
    "403": Status(403, message="account suspended"),
    "500": Status(500),
    "529": Status(529, message="overloaded"),
    "429 with a wait beyond our patience": Status(429, {"retry-after": "3600"}),
    "reset": Reset(),
    "hangs": Hang(30),
    "truncated": Truncated(),
    "malformed": Malformed(),
    "html": Malformed("<html><body>Bad gateway</body></html>"),
    "json of another shape": Malformed('{"choices": [], "ok": true}'),
}


@pytest.mark.slow
@pytest.mark.parametrize("reaction", FATAL.values(), ids=FATAL.keys())
def test_a_provider_that_fails_the_proposer_or_then_the_target_stops_the_run_so_that_it_can_be_resumed(
    cli, task, reaction
):
    with ProviderServer(lambda request: reaction if proposer.is_proposer(request) else yes(request)) as server:
        assert_stopped_resumable(run(cli, task, server.base_url, *HASTY_RETRIES), cli)
        server.script = only_target(reaction)
        assert_stopped_resumable(cli(f"resume={cli.run}", env=KEY), cli)
        assert not all(map(proposer.is_proposer, server.requests))
        server.script = yes  # repaired
        done = cli(f"resume={cli.run}", env=KEY)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("reaction", [Endless(), Endless(pause=0), Huge(200 << 20)], ids=["endless", "flood", "huge"])
def test_an_answer_without_end_or_of_200_mb_is_cut_and_memory_stays_flat(cli, task, reaction):
    with ProviderServer(only_target(reaction)) as server:
        started = start(cli, task, server.base_url, *HASTY_RETRIES, "provider.concurrency=4")
        with ThreadPoolExecutor(1) as watching:
            peak = watching.submit(peak_mb, started)
            said, _ = started.communicate()
    assert started.returncode in (INTERRUPTED, 3), said
    assert "Traceback" not in said
    assert 0 < peak.result() < 700


def first_fails(reaction, times=1):
    """Let the first `times` calls of each question fail; then all is well."""
    failed: dict[str, int] = {}

    def script(request: Request):
        if proposer.is_proposer(request):
            return proposer.answer(request)
        before = failed.get(request.last, 0)
        failed[request.last] = before + 1
        return reaction if before < times else Answer("Answer: nothing")

    return script


TRANSIENT = {
    "429": Status(429, {"retry-after": "0.2"}, "slow down"),
    "500": Status(500),
    "reset": Reset(),
    "truncated": Truncated(),
    "malformed": Malformed(),
}


def slow_but(fast, cases):
    """The cases of a parametrized test; one of them represents the others in the fast tier."""
    return [pytest.param(case, id=name, marks=[] if name == fast else pytest.mark.slow) for name, case in cases.items()]


@pytest.mark.parametrize("reaction", slow_but("429", TRANSIENT))
def test_what_is_transient_is_retried_and_no_question_is_lost(cli, task, reaction):
    with ProviderServer(first_fails(reaction)) as server:
        done = run(cli, task, server.base_url, "provider.max_wait_seconds=1")
    assert done.returncode == 0, done.stdout + done.stderr
    (generation,) = cli.summary["generations"]
    assert generation["outcomes"] == {"wrong": 24}
    assert cli.summary["usage"]["calls"] == server.tally.calls


@pytest.mark.slow
def test_a_dead_endpoint_in_the_middle_stops_the_run_and_a_resume_ends_as_if_nothing_had_been(
    tmp_path_factory, llm_run
):
    peaceful, cut = Cli(tmp_path_factory.mktemp("peaceful")), Cli(tmp_path_factory.mktemp("cut"))
    mine = llm_run()
    assert peaceful(*mine.overrides(peaceful.run, "max_gen=1")).returncode == 0
    mine.serve(SIA_TEST_DIES="30")
    done = cut(*mine.overrides(cut.run, "max_gen=1", *HASTY_RETRIES))
    assert_stopped_resumable(done, cut)
    assert "127.0.0.1" in done.stdout + done.stderr
    mine.serve(again=True)
    done = cut(f"resume={cut.run}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert essence(cut) == essence(peaceful)


EVIL = """
import glob, os, sys
for place in ["{task}", sys.argv[2], "..", "../..", "/", *glob.glob("/work*"), *sys.path]:
    for name in ("verifier.py", "labelled.csv", "scores.json", "results.json"):
        try:
            with open(os.path.join(place, name), "w") as stream:
                stream.write("def verify(submission_dir, answers): return [1.0] * len(answers)")
        except OSError as error:
            print(place, name, error)
"""


def test_a_proposed_harness_that_writes_over_the_verifier_and_the_answers_changes_neither(cli, task, tmp_path):
    folder = tmp_path / "riddles"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    evil = EVIL.format(task=folder) + harness(NAIVE)
    moves = [(proposer.write(evil),), (proposer.submit("a better verifier"),)]

    def script(request: Request) -> Answer:
        said = sum(message["role"] == "assistant" for message in request.messages)
        return Answer("", moves[said]) if proposer.is_proposer(request) else Answer("Answer: nothing")

    with ProviderServer(script) as server:
        done = run(cli, task, server.base_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cli.summary["best"]["val"]["value"] == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
