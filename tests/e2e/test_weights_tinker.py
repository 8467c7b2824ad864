"""The weights lever with a real Tinker server and chat model (tests/engines/tinker.sh): whole runs, faults, and kills.

What is spent is held against the requests in the server's own database. SIA_TINKER_ALL=1: every algorithm.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinker", reason="policy=tinker needs the extra `tinker`")

from tests.conftest import ROOT, Cli
from tests.scripts import parity, sentences
from tests.scripts.tinker_proxy import TinkerProxy, with_key, without_adapters

URL, BASE, STATE = (os.environ.get(name, "") for name in ("SIA_TINKER_URL", "SIA_SMOLLM2", "SIA_TINKER_STATE"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not URL, reason="no Tinker server: tests/engines/tinker.sh up"),
]
ours = pytest.mark.skipif(not STATE, reason="SIA_TINKER_STATE: the server is not ours")
every = pytest.mark.skipif(not os.environ.get("SIA_TINKER_ALL"), reason="minutes each: SIA_TINKER_ALL=1")
PATIENCE = 1500.0  # seconds, of a whole run on a machine that is shared by many


def overrides(folder: Path, *more: str, url: str = URL, trainer: str = "grpo") -> list[str]:
    """Return a small run's overrides. All prompts are of one length, as the server compiles each bin of lengths."""
    chosen = parity.overrides(folder, max_tokens=4, questions=20)
    offline = trainer in ("best_of_n", "dpo")
    chosen = [word for word in chosen if "prompts_per_step" not in word]
    chosen = [f"trainer={trainer}" if word == "trainer=grpo" else word for word in chosen]
    chosen += ["trainer.prompts=2", "trainer.options.rounds=1"] if offline else ["trainer.prompts_per_step=1"]
    policy = {"base": BASE, "base_url": url, "tinker.reduction": "mean"}  # test_tinker_server.py measures it
    chosen += ["policy=tinker", *(f"target_agent.policy.{name}={value}" for name, value in policy.items())]
    # a rate that moves the answers little: some have to end within 4 tokens
    return [*chosen, "trainer.checkpoint_every=1", "trainer.learning_rate=5e-5", *more]


def curve_of(run: Path) -> list[dict[str, Any]]:
    curve = run / "gen_2" / "curve.jsonl"
    return [json.loads(line) for line in curve.read_text().splitlines()] if curve.is_file() else []


def origin_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "gen_2" / "adapter" / "sia_adapter.json").read_text())


def tensors_of(run: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(run / "gen_2" / "adapter" / "adapter_model.safetensors")


class ServerBooks:
    """The requests that the server has had since this was made, in its own database."""

    def __init__(self) -> None:
        self._since = 0
        self._since = max((row[0] for row in self._rows()), default=0)

    def _rows(self) -> list[tuple[Any, ...]]:
        names = "request_id, request_type, model_id, status, request_data, result_data"
        database = sqlite3.connect(f"file:{STATE}/tinker.db?mode=ro", uri=True, timeout=60)
        try:
            return list(database.execute(f"select {names} from futures where request_id > ?", [self._since]))
        finally:
            database.close()

    def requests(self, kind: str) -> list[tuple[str, str]]:
        """Return (model, status) of each request of a kind, in order."""
        return [(row[2], row[3]) for row in sorted(self._rows()) if row[1] == kind]

    def tokens(self) -> Counter[str]:
        """Return the tokens of training calls and of samples; a row's last token is a target only."""
        count: Counter[str] = Counter()
        for _, kind, _, status, request, result in self._rows():
            if status == "FAILED":  # refused
                continue
            asked, answer = json.loads(request), json.loads(result or "{}")
            if kind in ("FORWARD", "FORWARD_BACKWARD"):
                lengths = [len(row["loss_fn_inputs"]["target_tokens"]["data"]) + 1 for row in asked["data"]]
                count["read" if kind == "FORWARD" else "trained"] += sum(lengths)
            elif kind == "SAMPLE":
                prompt = sum(len(chunk["tokens"]) for chunk in asked["prompt"]["chunks"])
                made = sum(len(sequence["tokens"]) for sequence in answer.get("sequences", []))
                scored = asked["prompt_logprobs"]
                count["read" if scored else "prompts"] += prompt * asked["num_samples"]
                count["trained" if scored else "sampled"] += made
        return count


def ledger_tokens(run: Path) -> Counter[str]:
    """Return the same tokens by the run's ledger; what has no answer counts as reserved."""
    count: Counter[str] = Counter()
    for path in (run / "ledger").glob("2*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        ends = {line["done"]: line for line in lines if "done" in line}
        undone = {line["undone"] for line in lines if "undone" in line}
        for line in lines:
            if "sent" in line and line["sent"] not in undone:
                end, learner = ends.get(line["sent"], line), line["role"] == "learner"
                count["read" if learner else "prompts"] += end["input"]
                count["trained" if learner else "sampled"] += end["output"]
    return count


@dataclass(frozen=True)
class Unbroken:
    """A whole run without a fault."""

    run: Path
    trained: int  # tokens, by the server's books
    steps: int  # that the server has taken


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    cli, books = Cli(folder), ServerBooks()
    done = cli(*overrides(folder), f"hydra.run.dir={cli.run}", timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return Unbroken(cli.run, books.tokens()["trained"], len(books.requests("OPTIM_STEP")))


def assert_trained(run: Path, summary: dict[str, Any], trainer: str, steps: int = 3) -> None:
    second = summary["generations"][1]
    assert (second["lever"], second["algorithm"]) == ("weights", trainer) and second["val"]["n"] == 4
    origin = origin_of(run)
    assert origin["steps"] == steps and origin["base_id"] == BASE and origin["service"]["address"] == URL
    assert_applied(run / "gen_2")


def assert_applied(generation: Path) -> None:
    """The logprobs that the server recorded on dev and val are those of the exported adapter by PEFT, to 1e-3."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lines = (generation / "trajectories.jsonl").read_text().splitlines()
    calls = [json.loads(line)["tokens"] for line in lines[:4]]
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(generation / "adapter"))
    for call in calls:
        ids = torch.tensor([[*call["prompt_ids"], *call["completion_ids"]]])
        with torch.no_grad():
            logprob_tv = model(ids).logits[0, len(call["prompt_ids"]) - 1 : -1].double().log_softmax(-1)
        own = logprob_tv.gather(1, torch.tensor(call["completion_ids"])[:, None])[:, 0]
        np.testing.assert_allclose(own.numpy(), call["logprobs"], atol=1e-3)


@ours
def test_harness_and_weights_are_recorded_as_in_process_and_in_the_ledger_as_in_the_servers_books(
    cli: Cli, tmp_path: Path
) -> None:
    at = ["policy=tinker", f"target_agent.policy.base={BASE}", f"target_agent.policy.base_url={URL}"]
    at += ["target_agent.policy.tinker.reduction=mean"]
    books = ServerBooks()
    done = cli(*sentences.overrides(tmp_path), *at, f"hydra.run.dir={cli.run}", timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    sentences.check_run(cli, BASE, Path(BASE), max_drift=1e-6, max_gap=1e-3, service=True)
    server = books.tokens()
    assert server["trained"] > 0 and ledger_tokens(cli.run) == server
    assert len(books.requests("OPTIM_STEP")) <= sentences.STEPS  # none without a gradient
    assert origin_of(cli.run)["service"]["address"] == URL


@every
@pytest.mark.parametrize("trainer", ["reinforce", "entropic", "best_of_n", "dpo"])
def test_a_generation_is_trained_by_each_algorithm(cli: Cli, tmp_path: Path, trainer: str) -> None:
    words = overrides(tmp_path, "trainer.steps=2", trainer=trainer)
    done = cli(*words, f"hydra.run.dir={cli.run}", timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_trained(cli.run, cli.summary, trainer, steps=2)


class BrokenRun:
    """A run of which something is killed while the server computes the gradient of a step after the first."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli, self.books = cli, ServerBooks()
        self.runner = cli.start(*overrides(folder), f"hydra.run.dir={cli.run}", process_group=0)

    def until_in_a_step(self, steps: int = 1) -> None:
        """Wait until the server computes a gradient that more than `steps` have gone before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            sent = self.books.requests("FORWARD_BACKWARD")
            if curve_of(self.cli.run) and len(sent) > steps and sent[-1][1] == "PENDING":
                return
            assert self.runner.poll() is None and time.monotonic() < deadline, self.runner.communicate()[0]
            time.sleep(0.02)

    def resume(self, unbroken: Unbroken) -> None:
        """Resume, and hold the result against the run that nothing has broken."""
        cli, before = self.cli, len(self.books.requests("OPTIM_STEP"))
        done = cli(f"resume={cli.run}", timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "resumed after step" in (cli.run / "gen_2" / "training.log").read_text()
        kept = [entry for entry in cli.journal if entry["event"] == "checkpoint"]
        assert kept and all(entry["path"].startswith("tinker://") for entry in kept)
        same = ("step", "reward", "tokens")
        steps = [{name: step[name] for name in same} for step in curve_of(cli.run)]
        assert steps == [{name: step[name] for name in same} for step in curve_of(unbroken.run)]
        assert_trained(cli.run, cli.summary, "grpo")
        # a step taken twice, or the gradient that was broken off, would be in the weights
        tensors = tensors_of(cli.run)
        for name, expected in tensors_of(unbroken.run).items():
            np.testing.assert_allclose(tensors[name], expected, atol=1e-5, err_msg=name)
        assert before < unbroken.steps == len(self.books.requests("OPTIM_STEP"))
        ledger, server = ledger_tokens(cli.run), self.books.tokens()
        assert all(ledger[name] >= server[name] for name in server), (ledger, server)
        assert ledger["trained"] > unbroken.trained, "what the kills have wasted is counted"


@pytest.fixture
def start_again() -> Iterator[Callable[[], None]]:
    """Start the server again on the same database; it is up afterwards, whatever the test has done."""

    def start() -> None:
        environment = {**os.environ, "SIA_ENGINES": str(Path(STATE).parents[1]), "PYTHON": sys.executable}
        subprocess.run([ROOT / "tests" / "engines" / "tinker.sh", "up"], env=environment, check=True, timeout=600)

    yield start
    start()


@ours
def test_kill_of_the_server_in_an_update_and_then_of_the_runner_in_the_same_one(
    cli: Cli, tmp_path: Path, unbroken: Unbroken, start_again: Callable[[], None]
) -> None:
    run = BrokenRun(cli, tmp_path)
    run.until_in_a_step()
    os.killpg(int((Path(STATE).parent / "pid").read_text()), signal.SIGKILL)
    output = run.runner.communicate(timeout=300)[0]
    assert run.runner.returncode != 0 and f"resume={cli.run}" in output and "Traceback" not in output, output
    assert "cannot be reached" in output
    refused = cli(f"resume={cli.run}", timeout=240)
    assert refused.returncode != 0 and "cannot be reached" in refused.stdout + refused.stderr
    start_again()
    gradients = len(run.books.requests("FORWARD_BACKWARD"))
    run.runner = cli.start(f"resume={cli.run}", process_group=0)
    run.until_in_a_step(gradients)
    os.killpg(run.runner.pid, signal.SIGKILL)
    run.runner.wait()
    run.resume(unbroken)


def test_adapter_that_is_not_applied_is_caught_before_a_second_update(cli: Cli, tmp_path: Path) -> None:
    with TinkerProxy(URL, without_adapters(BASE)) as proxy:
        words = overrides(tmp_path, url=proxy.url)
        done = cli(*words, f"hydra.run.dir={cli.run}", timeout=PATIENCE)
        output = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0 and "without the adapter that was published" in output, output
        assert proxy.counts["optim_step"] == 1
        proxy.change = None  # mended
        done = cli(f"resume={cli.run}", timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
    assert origin_of(cli.run)["steps"] == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("key", "Invalid API key"),
        ("base", f"base={BASE}/.: http://127.0.0.1"),
        ("gone", "http://127.0.0.1:9 cannot be reached"),
        ("other", "nothing there speaks the Tinker protocol"),
    ],
)
def test_service_that_does_not_fit_is_one_line_before_the_start(
    cli: Cli, tmp_path: Path, fault: str, words: str
) -> None:
    change = {"key": with_key("tml-right")}.get(fault)
    with TinkerProxy(URL, change) as proxy:
        url = {"gone": "http://127.0.0.1:9", "other": f"{proxy.url}/elsewhere"}.get(fault, proxy.url)
        more = [f"target_agent.policy.base={BASE}/."] if fault == "base" else []
        environment = {"TINKER_API_KEY": "tml-wrong"} if fault == "key" else {}
        done = cli(*overrides(tmp_path, *more, url=url), timeout=300, env=environment)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if words in line]
    assert done.returncode != 0 and len(lines) == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr and "tml-wrong" not in done.stdout + done.stderr
