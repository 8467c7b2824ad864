"""Sign-off: with `approve` a run stops before the lever, with its plan on disk, until a person has answered."""

import json
import subprocess
import sys

import pytest

from tests.harnesses import MAJORITY, RAREST, WORDS

FOUR_ROLLOUTS = ["trainer.steps=2", "trainer.prompts_per_step=8", "trainer.group_size=4", "trainer.learning_rate=1e-3"]


def command(module, *args):
    done = subprocess.run(
        [sys.executable, "-m", "sia_runner", module, *map(str, args)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def events(cli, *names):
    return [entry for entry in cli.journal if entry["event"] in names]


def statuses(cli):
    return [(g["status"], g["reason"]) for g in cli.summary["generations"]]


@pytest.fixture
def waiting(cli):
    """A run whose first harness waits for approval."""
    done = cli("task=smoke", "approve=all", *cli.replay(MAJORITY, RAREST, WORDS))
    assert done.returncode == 130, done.stdout + done.stderr
    return cli, done.stdout


def test_the_run_stops_with_its_plan_and_says_how_to_answer(waiting):
    cli, output = waiting
    assert (
        f"python -m sia_runner approve {cli.run}\n" in output and '--reject "why"' in output and "resume=" not in output
    )
    assert (cli.summary["status"], cli.summary["waits"]) == ("interrupted", 1)
    plan = json.loads((cli.run / "gen_1" / "plan.json").read_text())
    assert plan["lever"] == "harness" and "+++ b/target_agent.py" in plan["harness"] and plan["data"] is None
    (part,) = plan["cost"]
    assert part["calls"] is None and part["sandbox_runs"] == 2  # nothing was measured yet: said, not guessed
    assert "not known" in (cli.run / "gen_1" / "plan.md").read_text()
    assert not (cli.run / "gen_1" / "harness").exists()


def test_a_plain_resume_stops_again(waiting):
    cli, _ = waiting
    again = cli(f"resume={cli.run}")
    assert again.returncode == 130 and "waits for approval" in again.stdout
    assert len([e for e in cli.journal if e.get("step") == "gen_1/plan"]) == 2  # started and done once
    assert command("verify", cli.run)[0] == 0


def test_approved_it_goes_on_to_the_next_plan_and_rejected_to_the_one_after(waiting):
    cli, _ = waiting
    assert command("approve", cli.run)[0] == 130
    assert cli.summary["waits"] == 2 and cli.summary["generations"][0]["status"] == "accepted"
    measured = json.loads((cli.run / "gen_2" / "plan.json").read_text())["cost"][0]
    assert (measured["calls"], measured["source"][:13]) == (0, "generation 1 ") and measured["minutes"] >= 0
    assert command("approve", cli.run, "--reject", "too dear\nfor us")[0] == 130
    assert cli.summary["waits"] == 3
    assert command("approve", cli.run)[0] == 0
    assert statuses(cli)[1] == ("rejected", "sign-off: too dear for us")
    assert (cli.summary["status"], cli.summary["waits"], cli.summary["best"]["generation"]) == ("completed", None, 3)
    assert not (cli.run / "gen_2" / "harness").exists()
    signed = events(cli, "approved", "rejected")
    assert [(e["event"], e["n"]) for e in signed] == [("approved", 1), ("rejected", 2), ("approved", 3)]
    assert all(e["by"] and e["at"] for e in signed) and signed[1]["why"] == "too dear for us"
    code, output = command("verify", cli.run)
    assert code == 0 and output.count("sign-off") == 3, output


def test_a_plan_that_was_edited_is_not_approved(waiting):
    cli, _ = waiting
    for name in ("plan.md", "plan.json", "proposal.json"):
        path = cli.run / "gen_1" / name
        before = path.read_text()
        path.write_text(before + " ")
        code, output = command("approve", cli.run)
        assert code == 2 and f"gen_1/{name} was changed since it was written" in output
        assert command("verify", cli.run)[0] == 1
        path.write_text(before)
    assert events(cli, "approved", "rejected", "resumed") == []


def test_where_nothing_waits_nothing_is_approved(cli):
    assert cli("task=smoke", *cli.replay(MAJORITY)).returncode == 0
    code, output = command("approve", cli.run)
    assert code == 2 and output == f"refused: {cli.run}: no plan waits for approval\n"


def test_a_candidate_that_went_on_unsigned_is_a_fault(waiting, tmp_path):
    """Somebody who rewrites the whole journal, hash chain and all, still needs an answer in it."""
    cli, _ = waiting
    assert command("approve", cli.run)[0] == 130
    forge(cli.run / "journal.jsonl", lambda entry: entry["event"] != "approved")
    code, output = command("verify", cli.run)
    assert code == 1 and "FAULT gen_1: sign-off: went on without a plan that was answered" in output


def forge(journal, keep):
    import hashlib

    before, lines = "0" * 64, []
    for entry in filter(keep, map(json.loads, journal.read_text().splitlines())):
        line = json.dumps(entry | {"seq": len(lines) + 1, "prev": before}, ensure_ascii=False)
        before = hashlib.sha256(line.encode()).hexdigest()
        lines.append(line)
    journal.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("args", [[], ["RUN", "--reject"], ["RUN", "--reject", " "], ["RUN", "--rejected", "why"]])
def test_a_wrong_command_line_is_refused(args):
    code, output = command("approve", *args)
    assert code == 2 and output.startswith("refused: ") and output.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_approve_weights_asks_for_updates_alone_and_a_rejected_one_does_not_come_back_at_once(cli):
    pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
    start = [
        "task=arithmetic",
        "trainer=grpo",
        "approve=weights",
        "max_gen=3",
        "lever.latest_fraction=0",
        *FOUR_ROLLOUTS,
    ]
    done = cli(*start, "meta_agent.trials=1", timeout=300)
    assert done.returncode == 130, done.stdout + done.stderr
    assert cli.summary["waits"] == 2  # the first harness was not asked for
    plan = json.loads((cli.run / "gen_2" / "plan.json").read_text())
    assert (plan["lever"], plan["algorithm"], plan["settings"]["steps"]) == ("weights", "grpo", 2)
    assert plan["data"]["questions"] == 591 and plan["harness"] == "no file changed"
    training, _ = plan["cost"]
    assert (training["sandbox_runs"], training["questions"]) == (2 * 4, 2 * 4 * 8)
    assert training["calls"] == pytest.approx(2 * 4 * 8, rel=0.1) and training["usd"] == 0
    assert not (cli.run / "gen_2" / "adapter").exists() and not (cli.run / "gen_2" / "training.log").exists()
    assert command("approve", cli.run, "--reject", "not on this machine")[0] in (0, 130)
    assert statuses(cli)[1] == ("rejected", "sign-off: not on this machine")
    assert cli.summary["waits"] is None and cli.summary["generations"][2]["lever"] == "harness"
    assert command("verify", cli.run)[0] == 0
