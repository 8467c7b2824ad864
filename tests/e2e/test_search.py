"""Whole runs with a proposer of ours: the candidate that is extended, the width, and the stop at a plateau."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.harnesses import MAJORITY, RAREST, WORDS
from tests.provider import Answer, ProviderServer
from tests.scripts.serving import KEY, use

PROPOSER = """
import json, pathlib
from sia_runner.records import Lever, Proposal

HARNESSES = json.loads(pathlib.Path(__file__).with_name("harnesses.json").read_text())

class Scripted:
    def __init__(self, context, *, plan):
        self.plan = plan  # names of harnesses: a generation's siblings, generation by generation

    def propose(self, brief, workbench):
        name = self.plan[brief.n - 1][brief.sibling]
        shown = brief.evidence / "harness" / "target_agent.py" if brief.evidence else None
        extends = next((k for k, v in HARNESSES.items() if shown and shown.is_file() and v == shown.read_text()), None)
        return Proposal(Lever.HARNESS, f"extends {extends}", {"target_agent.py": HARNESSES[name]}, title=name)
"""


@pytest.fixture
def run(cli):
    (cli.folder / "scripted.py").write_text(PROPOSER)
    names = {"majority": MAJORITY, "rarest": RAREST, "words": WORDS}
    (cli.folder / "harnesses.json").write_text(json.dumps(names))

    def go(plan, *overrides):
        chosen = {"name": "scripted", "_target_": "scripted.Scripted", "plan": plan}
        (cli.folder / "conf" / "meta_agent").mkdir(parents=True, exist_ok=True)
        (cli.folder / "conf" / "meta_agent" / "scripted.yaml").write_text(json.dumps(chosen))
        where = [f"hydra.run.dir={cli.run}", "--config-dir", str(cli.folder / "conf")]
        path = {"PYTHONPATH": f"{cli.folder}:{ROOT}"}
        done = cli("meta_agent=scripted", f"max_gen={len(plan)}", *overrides, *where, env=path)
        assert done.returncode == 0, done.stdout + done.stderr
        return cli.summary["generations"]

    return go


def proposals(cli):
    steps = {e["step"]: e["result"] for e in cli.journal if e["event"] == "done"}
    return [steps[step] for step in sorted(steps) if step.endswith("/propose")]


ORDER = [["words"], ["rarest"], ["majority"]]


def test_greedy_extends_the_incumbent_until_a_plateau_ends_the_run_and_the_best_is_tested(cli, run):
    generations = run([*ORDER, ["words"]], "search=greedy", "search.patience=2")
    assert [g["parent"] for g in generations] == [None, 1, 1]
    assert [p["rationale"] for p in proposals(cli)][1:] == ["extends words", "extends words"]
    assert [g["status"] for g in generations] == ["accepted", "rejected", "rejected"]
    assert "no candidate was accepted in the last 2 generations" in cli.summary["stopped"]
    assert cli.summary["best"]["test"] and cli.summary["status"] == "completed"


def test_last_extends_the_newest_scored_candidate_and_still_keeps_the_best(cli, run):
    generations = run(ORDER, "search=last")
    assert [g["parent"] for g in generations] == [None, 1, 2]
    assert proposals(cli)[2]["rationale"] == "extends rarest"
    assert cli.summary["best"]["generation"] == 1


def test_archive_extends_scored_candidates(cli, run):
    first = [g["parent"] for g in run(ORDER, "search=archive", "seed=3")]
    assert first[0] is None and set(first[1:]) <= {1, 2}


def test_of_parallel_proposals_the_best_on_dev_meets_val_and_the_others_are_kept_on_record(cli, run):
    generations = run([["majority"], ["rarest", "words", "majority"]], "search.proposals_per_generation=3")
    assert generations[1]["title"] == "words" and generations[1]["status"] == "accepted"
    siblings = proposals(cli)[1]["siblings"]
    assert [s["title"] for s in siblings] == ["rarest", "words", "majority"]
    assert [s["chosen"] for s in siblings] == [False, True, False]
    assert siblings[1]["dev"] == max(s["dev"] for s in siblings)
    assert len(list((cli.run / "gen_2" / "proposals").iterdir())) == 3


def test_parallel_proposals_with_the_same_idea_try_it_once(cli, run):
    generations = run(
        [["majority"], ["words", "words", "words", "words"]], "search.proposals_per_generation=4", "compute.workers=4"
    )
    assert generations[1]["status"] == "accepted"
    assert len(list((cli.run / "trials").glob("*/trial.json"))) == 1


def test_islands_extend_their_own_best_and_take_turns(cli, run):
    plan = [["rarest"], ["words"], ["majority"], ["majority"], ["majority"]]
    generations = run(plan, "search=islands", "search.migrate_every=9")
    assert [g["parent"] for g in generations] == [None, 1, 1, 2, 3]
    assert cli.summary["best"]["generation"] == 2


MERGES = ["search=pareto", "search.dev_groups=null", "search.merge_fraction=1"]


def test_pareto_merges_candidates_that_are_best_on_different_dev_questions_and_shows_where(cli, run):
    generations = run([["words"], ["rarest"], ["majority"], ["majority"]], *MERGES)
    parent, partner = generations[3]["parent"], generations[3]["partner"]
    assert {parent, partner} < {1, 2, 3} and parent != partner
    assert all("partner" not in g for g in generations[:2]), "of one candidate there is nothing to merge"
    evidence = cli.run / "gen_4" / "evidence"
    names = {n: (cli.run / f"gen_{n}" / "harness" / "target_agent.py").read_text() for n in (parent, partner)}
    assert (evidence / "harness" / "target_agent.py").read_text() == names[parent]
    assert (evidence / "partner" / "harness" / "target_agent.py").read_text() == names[partner]
    summary = json.loads((evidence / "summary.json").read_text())["partner"]
    better, worse = ((evidence / "partner" / f"{name}.jsonl").read_text().splitlines() for name in ("better", "worse"))
    assert (summary["better"], summary["worse"]) == (len(better), len(worse)) and better
    assert all(json.loads(line)["gold"] != json.loads(line)["prediction"] for line in (*better, *worse))
    assert f"merges generations {parent} and {partner}" in (cli.run / "context.md").read_text()
    command = [sys.executable, "-m", "sia_runner", "verify", str(cli.run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_search_that_goes_on_after_its_end_draws_what_it_would_have_drawn(cli, run):
    plan = [["words"], ["rarest"], ["majority"], ["words"], ["rarest"]]
    whole = [(g["parent"], g.get("partner")) for g in run(plan, *MERGES, "seed=5")]
    cli.run = cli.folder / "cut"
    first = run(plan, *MERGES, "seed=5", "max_gen=3")
    done = cli(f"resume={cli.run}", "max_gen=5", env={"PYTHONPATH": f"{cli.folder}:{ROOT}"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(first) == 3 and [(g["parent"], g.get("partner")) for g in cli.summary["generations"]] == whole


TALKER = """
from sia_runner.records import Lever, Proposal

class Talker:
    def __init__(self, context):
        self.reference = (context.reference / "target_agent.py").read_text()

    def propose(self, brief, workbench):
        reply = workbench.chat([{"role": "user", "content": f"generation {brief.n}"}])
        text = f"{self.reference}\\n# {brief.n}"
        return Proposal(Lever.HARNESS, reply.text, {"target_agent.py": text}, title=reply.text, usage=reply.usage)
"""


def test_of_several_models_each_is_tried_and_the_journal_says_which_one_proposed(cli):
    (cli.folder / "talker.py").write_text(TALKER)
    (cli.folder / "conf" / "meta_agent").mkdir(parents=True)
    (cli.folder / "conf" / "meta_agent" / "talker.yaml").write_text("{name: talker, _target_: talker.Talker}")
    where = [f"hydra.run.dir={cli.run}", "--config-dir", str(cli.folder / "conf")]
    with ProviderServer(lambda request: Answer(f"from {request.model}"), models=("a", "b")) as server:
        provider = [
            "provider=custom",
            f"provider.base_url={server.base_url}",
            "provider.model=c",
            "provider.key=SIA_TEST_KEY",
        ]
        path = {"PYTHONPATH": f"{cli.folder}:{ROOT}", **KEY}
        done = cli(
            "meta_agent=talker",
            "target_agent=script",
            *provider,
            "search.proposer_models=[a,b]",
            "max_gen=3",
            *where,
            env=path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert [request.model for request in server.requests if request.messages] == ["a", "a", "b"]
        tally = server.tally
    assert [g["model"] for g in cli.summary["generations"]] == ["a", "a", "b"]
    assert [p["model"] for p in proposals(cli)] == ["a", "a", "b"]
    usage = cli.summary["usage"]
    assert (usage["calls"], usage["tokens"]) == (tally.calls, tally.input_tokens + tally.output_tokens)


IDEAS = {"count the rarest": RAREST, "always say the commonest": MAJORITY, "look at pairs of words": WORDS}


def heeding(request):
    """A model that makes the first change that the prompt's list of failures does not name."""
    found = re.search(r"This is generation (\d+) of", request.text)
    if not found:
        return Answer("", tool_calls=(("submit", SUBMIT | {"title": "the first harness"}),))
    failed = re.search(r"## What failed, and why\n\n(.*?)\n\n", request.text, re.DOTALL)
    title = next(title for title in IDEAS if title not in (failed[1] if failed else ""))
    write = {"path": "harness/target_agent.py", "content": f"# {found[1]}\n{IDEAS[title]}"}
    return Answer("", tool_calls=(("write_file", write), ("submit", SUBMIT | {"title": title})))


SUBMIT = {"rationale": "it may help", "expected_effect": "more right answers"}


@pytest.mark.slow
def test_a_model_that_heeds_the_memory_reaches_what_it_misses_without_it(cli):
    titles = {}
    for memory in ("true", "false"):
        cli.run = cli.folder / memory
        with ProviderServer(heeding) as server:
            of = ["meta_agent=llm", "target_agent=script", "max_gen=4", *use(server.base_url)]
            done = cli(*of, f"evidence.memory={memory}", f"hydra.run.dir={cli.run}", env=KEY)
            assert done.returncode == 0, done.stdout + done.stderr
        titles[memory] = [(g["title"], g["status"]) for g in cli.summary["generations"][1:]]
    rare, common, pairs = IDEAS
    assert titles["true"] == [(rare, "rejected"), (common, "rejected"), (pairs, "accepted")]
    assert titles["false"] == [(rare, "rejected")] * 3
