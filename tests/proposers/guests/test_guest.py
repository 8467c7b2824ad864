"""What a guest is given, and when it is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sia_runner.proposers.guests import GuestProposer, GuestServices, OpenHands
from sia_runner.proposers.protocol import EarlierCandidate, GuestResult, ProposerError
from sia_runner.records import Lever, PastGeneration, Trial, Usage
from tests.proposers.guests.conftest import KINDS, OLD

GOLDEN = Path(__file__).parent / "golden"


class Absent(GuestProposer):
    name = "absent"
    needs = ("a_package_that_nobody_has.sdk",)


class Anyone(GuestProposer):
    name = "pydantic_ai"
    needs = ()


class Looker:
    """A host that runs nothing and remembers what it was to run, as it was then."""

    def host(self, program, entry, *, inputs, harness, calls, seconds, services):
        self.services = services
        self.program, self.entry, self.harness, self.calls, self.seconds = program, entry, harness, calls, seconds
        self.inputs = {path.relative_to(inputs).as_posix() for path in inputs.rglob("*") if path.is_file()}
        return GuestResult(harness, "", "", Usage())

    chat = try_out = None


def look(context, brief, turns=20, trials=0) -> Looker:
    looker = Looker()
    Anyone(context, turns=turns, seconds=90.0, trials=trials, trial_questions=8).propose(brief, looker)  # pyright: ignore[reportArgumentType]
    return looker


def test_a_missing_package_is_one_line_that_names_the_extra(context):
    with pytest.raises(ProposerError) as refused:
        Absent(context, turns=1, seconds=1.0, trials=0, trial_questions=1)
    assert str(refused.value) == "meta_agent=absent needs the extra: pip install 'sia-runner[absent]'"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python is new enough for openhands")
def test_openhands_says_that_this_python_is_too_old_for_it(context):
    with pytest.raises(ProposerError, match=r"Python 3\.12"):
        OpenHands(context, turns=1, seconds=1.0, trials=0, trial_questions=1)


def test_looking_for_a_package_does_not_import_it():
    code = (
        "import sys\n"
        "from sia_runner.proposers.guests import ClaudeCode\n"
        "from sia_runner.proposers.guests import PydanticAI\n"
        "for kind in (ClaudeCode, PydanticAI):\n"
        "    try: kind.check()\n"
        "    except Exception: pass\n"
        "print([name for name in ('claude_agent_sdk', 'pydantic_ai', 'openai', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_for_the_first_harness_it_is_shown_the_task_and_the_reference_and_nothing_else(context, first):
    seen = look(context, first)
    assert seen.inputs == {"task.md"}
    assert seen.harness == {"target_agent.py": OLD}


def test_later_it_is_shown_the_evidence_and_changes_the_parents_harness(context, later):
    assert later.evidence
    (later.evidence / "harness" / "target_agent.py").write_text("print('parent')\n")
    seen = look(context, later)
    assert {"overview.md", "task.md"} <= seen.inputs
    assert seen.harness == {"target_agent.py": "print('parent')\n"}


def test_without_a_scored_parent_it_starts_from_the_reference_again(context, tmp_path, later):
    (tmp_path / "bare").mkdir()
    seen = look(context, replace(later, evidence=tmp_path / "bare", parent=None, incumbent=None))
    assert seen.harness == {"target_agent.py": OLD}
    assert "No earlier harness could be scored" in seen.program["prompt.md"]


def test_its_turns_and_time_are_bounded_by_the_host_and_told_to_the_driver(context, first):
    seen = look(context, first, turns=13)
    assert (seen.calls, seen.seconds) == (13, 90.0)
    assert json.loads(seen.program["settings.json"]) == {"turns": 13}
    assert seen.entry in seen.program


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_guest_has_a_driver_program_that_compiles(kind):
    source = (
        Path(sys.modules[GuestProposer.__module__].__file__ or "").parent / "guest_programs" / f"drive_{kind.name}.py"
    )
    compile(source.read_text(), source.name, "exec")


@pytest.mark.parametrize("name", ["first", "later", "sibling_without_model"])
def test_the_instructions_read_as_kept(name, context, first, later):
    """A change of a prompt is a change of the experiment: it is looked at, and kept on purpose."""
    cases = {
        "first": (context, first),
        "later": (context, later),
        "sibling_without_model": (replace(context, calls_model=False, submission=""), replace(later, sibling=1)),
    }
    assert look(*cases[name]).program["prompt.md"] == (GOLDEN / f"{name}.md").read_text()


def test_a_guest_is_told_a_persons_notes(context, first):
    text = look(context, replace(first, directions=("look at the dates",))).program["prompt.md"]
    assert "- look at the dates\n" in text and "person" in text


class Bench:
    """Counts how often harnesses ran."""

    def __init__(self):
        self.ran = 0

    def try_out(self, batch, *, share, questions=None):
        self.ran += len(batch)
        return [Trial(0.5, questions, 1.0) for _ in batch]

    def earlier_candidate(self, n):
        return EarlierCandidate({"target_agent.py": f"print({n})"}, [{"gold": "right"}])


def services(brief, trials=2) -> tuple[GuestServices, Bench]:
    bench = Bench()
    return GuestServices("target_agent.py", brief, bench, trials, 8), bench  # pyright: ignore[reportArgumentType]


def test_trials_are_as_many_as_configured_and_a_broken_draft_uses_none(first):
    host, bench = services(first)
    drafts = [{"target_agent.py": f"print({k})"} for k in (1, 1, 2, 3)]
    answers = [host.try_harness({"files": files}) for files in drafts]
    assert [answer["trials"] for answer in answers] == [1, 1, 0, 0]
    assert "no trials are left" in answers[3]["error"] and bench.ran == 2
    host, bench = services(first)
    for files, why in (({"target_agent.py": "def f(:"}, "does not parse"), ({"a.py": ""}, "has no target_agent.py")):
        assert why in host.try_harness({"files": files})["error"]
    assert bench.ran == 0 and host.trials_json() == []


@pytest.mark.parametrize("body", [{}, {"files": []}, {"files": {"target_agent.py": 5}}, {"files": {"a\ud800": "x"}}])
def test_what_is_no_draft_is_refused_in_words(first, body):
    host, bench = services(first)
    assert host.try_harness(body)["error"] and bench.ran == 0


def test_only_earlier_generations_that_it_knows_can_be_opened(first, later):
    known = replace(later, history=[PastGeneration(1, Lever.HARNESS, "", "accepted", "", None)])
    host, _ = services(known)
    assert host.open_candidate({"generation": 1}) == {
        "files": {"target_agent.py": "print(1)"},
        "failures": [{"gold": "right"}],
    }
    for n in (2, "1", True, None, [1]):
        assert "there are: 1" in host.open_candidate({"generation": n})["error"]
    assert "there are: none" in services(first)[0].open_candidate({"generation": 1})["error"]


def test_the_instructions_name_trials_and_earlier_candidates_where_there_are_any(context, later):
    known = replace(later, history=[PastGeneration(1, Lever.HARNESS, "", "accepted", "", None)])
    text = look(context, known, trials=6).program["prompt.md"]
    assert "`python @ASK_HOST@ try`" in text and "6 times at most" in text and "`python @ASK_HOST@ candidate N`" in text
    assert "@ASK_HOST@" not in look(context, replace(known, blind=True), trials=6).program["prompt.md"]
