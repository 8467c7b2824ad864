"""Whole runs whose proposer is another package's agent, before a scripted model: trials on dev, paid to the token."""

import json
import re
import subprocess
import sys

import pytest

from sia_runner.gateway.ledger_files import read_totals
from sia_runner.proposers.guests import ClaudeCode, OpenHands, PydanticAI
from sia_runner.proposers.protocol import ProposerError
from tests.harnesses import ASK, HEAD, MAJORITY, RAREST, WORDS
from tests.proposers.guests.test_in_sandbox import HANDS, ask_host
from tests.provider import Answer, ProviderServer
from tests.scripts.serving import KEY, use

# each harness makes one call, so that a trial costs one too
CALL = ASK + "ask('hello', asked[0]['id'])\n"
PLAN = [source.replace(HEAD, HEAD + CALL) for source in (MAJORITY, WORDS, RAREST)]


def script_of(hands, told):
    """A model that writes the generation's harness, tries it twice, looks at generation 1, and ends."""

    def script(request):
        found = re.search(r"This is generation (\d+) of", request.text)
        if not found:
            return Answer("hello yourself")
        told.append(request.text)
        n, path = int(found[1]), re.search(r"`(/\S+/harness)` is the harness", request.text)[1]
        write = f"cat > {path}/target_agent.py <<'END'\n{PLAN[n - 1]}\nEND\n"
        ask = f"python {ask_host(request.text)}"
        look = f"{ask} candidate 1; cat candidates/gen_1/harness/target_agent.py; " if n > 1 else ""
        steps = [f"{write}{ask} try", f"{look}{ask} try"]
        done = sum(message["role"] == "assistant" for message in request.messages)
        if done < len(steps):
            return Answer("Next.", tool_calls=(hands.shell(steps[done]),))
        return Answer(f"# Change {n}\n\nIt was tried.")

    return script


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PydanticAI, ClaudeCode, OpenHands], ids=lambda kind: kind.name)
def test_three_generations_with_trials_and_an_exact_ledger(cli, kind):
    try:
        kind.check()
    except ProposerError as error:
        pytest.skip(f"NOT TESTED: {error}")
    hands, told = HANDS[kind], []
    with ProviderServer(script_of(hands, told)) as server:
        of = [f"meta_agent={kind.name}", "meta_agent.trial_questions=20", "target_agent=model", "max_gen=3"]
        done = cli(*of, *use(server.base_url, api=hands.api), f"hydra.run.dir={cli.run}", env=KEY, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        tally = server.tally
    generations, usage = cli.summary["generations"], cli.summary["usage"]
    assert [g["status"] for g in generations] == ["accepted", "accepted", "rejected"]
    assert [g["title"] for g in generations] == ["Change 1", "Change 2", "Change 3"]
    notes = [
        entry["result"]["notes"]["trials"]
        for entry in cli.journal
        if entry["event"] == "done" and entry["step"].endswith("/propose")
    ]
    assert [len(trials) for trials in notes] == [1, 1, 1]  # the second try of the same files is no other run
    assert notes[1][0]["n"] == 20 and notes[1][0]["value"] > notes[2][0]["value"]
    assert "These very files were tried before" in told[-1]
    assert HEAD.strip().splitlines()[-1] in told[-1], "the harness of generation 1 was not shown"
    assert (usage["calls"], usage["tokens"]) == (tally.calls, tally.input_tokens + tally.output_tokens)
    assert not usage.get("unanswered")
    trials = read_totals(cli.run / "ledger").of(purpose="trial")
    assert trials.calls == 3 and len(list((cli.run / "trials").glob("*/trial.json"))) == 3
    command = [sys.executable, "-m", "sia_runner", "verify", str(cli.run)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    for path in cli.run.rglob("*.json*"):
        assert KEY["SIA_TEST_KEY"] not in json.dumps(path.read_text(errors="replace")), path
