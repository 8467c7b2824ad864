"""The loop from outside: what the model says goes in, a proposal comes out."""

import json
from pathlib import Path

import pytest

from sia_runner.records import Lever, ModelReply, OutcomeKind, PastGeneration, Score, Trial, Usage
from tests.proposers.llm.scripted import ENTRY, PARENT, REFERENCE, SUBMIT, Bench, evidence, first, later, propose, said

EDIT = ("edit_file", {"path": f"harness/{ENTRY}", "old": "RATE = 0.1", "new": "RATE = 0.2"})
EDITED = PARENT.replace("0.1", "0.2")
SUBMITTED = ("submit", SUBMIT)


class ProviderGone(Exception):
    pass


def test_the_first_harness_starts_from_the_reference_and_the_task(tmp_path):
    bench = Bench(
        [
            said("I look.", ("read_file", {"path": f"harness/{ENTRY}"}), ("read_file", {"path": "evidence/task.md"})),
            said("", ("write_file", {"path": "harness/helper.py", "content": "X = 1\n"})),
            said("", SUBMITTED),
        ]
    )
    proposal = propose(tmp_path, bench, first())
    assert proposal.lever is Lever.HARNESS
    assert proposal.files == {ENTRY: REFERENCE, "helper.py": "X = 1\n"}
    assert (proposal.title, proposal.rationale) == ("a better rate", "it was too low")
    reading, writing = bench.sent[1][-2:], bench.sent[2][-1]
    assert "print('reference')" in reading[0]["content"]
    assert "Answer each question." in reading[1]["content"]
    assert "helper.py has 1 lines now" in writing["content"]


def test_a_later_proposal_extends_the_parents_harness_by_what_the_evidence_says(tmp_path):
    folder = evidence(tmp_path, {"failures.jsonl": '{"gold": "B"}\n', "harness/sub/tool.py": "T = 1\r\n"})
    bench = Bench([said("", ("read_file", {"path": "evidence/failures.jsonl"}), EDIT), said("", SUBMITTED)])
    proposal = propose(tmp_path, bench, later(folder))
    assert proposal.files == {ENTRY: EDITED, "sub/tool.py": "T = 1\r\n"}
    assert '{"gold": "B"}' in bench.answers()[0]
    assert "Dev 3 of 10 right." in bench.sent[0][1]["content"]
    assert f"- `{ENTRY}`: changed" in proposal.improvement


def test_without_a_scored_parent_the_reference_is_taken_again(tmp_path):
    folder = evidence(tmp_path)
    (folder / "harness" / ENTRY).unlink()
    bench = Bench([said("", ("write_file", {"path": f"harness/{ENTRY}", "content": "new\n"})), said("", SUBMITTED)])
    proposal = propose(tmp_path, bench, later(folder, parent=None, incumbent=None))
    assert proposal.files == {ENTRY: "new\n"}
    assert "you start from the reference again" in bench.sent[0][1]["content"]


def test_usage_of_all_replies_is_summed(tmp_path):
    bench = Bench([said("", EDIT), said("hm"), said("", SUBMITTED)])
    proposal = propose(tmp_path, bench, later(evidence(tmp_path)))
    assert proposal.usage == Usage(pytest.approx(0.003), 300, 3)


@pytest.mark.parametrize(("temperature", "sent"), [(None, {}), (0.0, {"temperature": 0.0})])
def test_the_configured_settings_are_sent_and_a_temperature_only_where_one_is_set(tmp_path, temperature, sent):
    bench = Bench([said("", SUBMITTED)])
    propose(tmp_path, bench, first(), temperature=temperature, max_tokens=77)
    assert bench.settings == {"max_tokens": 77} | sent


def test_a_trial_shows_value_outcomes_failures_with_gold_and_output(tmp_path):
    trial = Trial(
        0.25,
        4,
        2.5,
        "",
        {"correct": 1, "wrong": 3},
        ({"question": "2 + 2?", "prediction": "5", "gold": "4"},),
        "Warning: slow\n",
    )
    bench = Bench([said("", EDIT), said("", ("try_harness", {})), said("", SUBMITTED)], lambda files: trial)
    proposal = propose(tmp_path, bench, later(evidence(tmp_path)))
    answer = bench.answers()[-1]
    for part in ("0.250 ± 0.217", "4 dev questions", "1 correct, 3 wrong", '"gold": "4"', "Warning: slow"):
        assert part in answer
    assert bench.tried == [{ENTRY: EDITED}]
    assert "| 1, proposed | 0.250 ± 0.217 | 4 | 2.5 |" in proposal.improvement
    mark = proposal.notes["digest"]
    assert proposal.notes["trials"] == [{"digest": mark, "value": 0.25, "n": 4, "failure": ""}]


def test_a_trial_is_compared_with_an_earlier_one_of_the_harness_it_starts_from(tmp_path):
    made = propose(tmp_path, Bench([said("", EDIT, ("try_harness", {}), SUBMITTED)]), later(evidence(tmp_path)))
    past = PastGeneration(2, Lever.HARNESS, made.title, "accepted", "better", Score(0.6, (0.5, 0.7), 10), made.notes)
    folder = evidence(tmp_path, {f"harness/{ENTRY}": EDITED})
    other = ("edit_file", {"path": f"harness/{ENTRY}", "old": "0.2", "new": "0.3"})
    for history, shown in (((past,), True), ((), False)):
        bench = Bench([said("", other, ("try_harness", {})), said("", SUBMITTED)])
        propose(tmp_path, bench, later(folder, n=3, parent=2, incumbent=2, history=history))
        assert ("the harness you started from had 0.500 on them" in bench.answers()[-1]) is shown


def test_trials_are_limited_and_the_same_files_cost_one(tmp_path):
    edits = [("edit_file", {"path": f"harness/{ENTRY}", "old": old, "new": new}) for old, new in ["12", "23"]]
    tries = [("try_harness", {})] * 2
    bench = Bench(
        [
            said("", ("write_file", {"path": f"harness/{ENTRY}", "content": "A = 1\n"}), *tries),
            said("", edits[0], *tries),
            said("", edits[1], *tries),
            said("", SUBMITTED),
        ]
    )
    propose(tmp_path, bench, later(evidence(tmp_path)), trials=2)
    assert [files[ENTRY] for files in bench.tried] == ["A = 1\n", "A = 2\n"]
    answers = bench.answers()
    assert "tried before" in answers[2]
    assert "trials left: 1" in answers[2]
    assert "no trials are left" in answers[-1]


def test_a_draft_that_does_not_parse_costs_no_trial(tmp_path):
    bench = Bench(
        [
            said("", ("write_file", {"path": f"harness/{ENTRY}", "content": "def f(:\n"}), ("try_harness", {})),
            said("", ("write_file", {"path": f"harness/{ENTRY}", "content": "x = 1\n"})),
            said("", SUBMITTED),
        ]
    )
    propose(tmp_path, bench, later(evidence(tmp_path)))
    assert bench.tried == []
    assert all("SyntaxError" in answer for answer in bench.answers()[:2])


def test_without_trials_the_tool_is_not_offered_and_not_there(tmp_path):
    bench = Bench([said("", ("try_harness", {})), said("", SUBMITTED)])
    propose(tmp_path, bench, first(), trials=0)
    assert "try_harness" not in bench.tools
    assert "there is no tool try_harness" in bench.answers()[0]
    assert "try_harness" not in bench.sent[0][0]["content"]


def test_stop_ends_the_search_with_its_reason_but_not_before_the_first_harness(tmp_path):
    stop = said("", ("stop", {"reason": "all was tried"}))
    stopped = propose(tmp_path, Bench([stop]), later(evidence(tmp_path)))
    assert (stopped.lever, stopped.rationale) == (Lever.STOP, "all was tried")
    bench = Bench([stop, said("", SUBMITTED)])
    assert propose(tmp_path, bench, first()).lever is Lever.HARNESS
    assert "there is no tool stop" in bench.answers()[0]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ((), "the parent's harness unchanged"),
        ((("delete_file", {"path": f"harness/{ENTRY}"}),), f"the harness has no {ENTRY}"),
        ((("write_file", {"path": "harness/b.py", "content": "while\n"}),), "does not parse: SyntaxError"),
    ],
)
def test_a_submission_that_cannot_be_a_candidate_is_sent_back_with_the_reason(tmp_path, before, reason):
    mend = [
        ("write_file", {"path": f"harness/{ENTRY}", "content": "good = 1\n"}),
        ("write_file", {"path": "harness/b.py", "content": ""}),
    ]
    bench = Bench([said("", *before, SUBMITTED), said("", *mend, SUBMITTED)])
    proposal = propose(tmp_path, bench, later(evidence(tmp_path)))
    assert reason in bench.answers()[-1]
    assert proposal.files[ENTRY] == "good = 1\n"


def test_what_was_proposed_before_is_sent_back_with_what_became_of_it(tmp_path):
    made = propose(tmp_path, Bench([said("", EDIT, SUBMITTED)]), later(evidence(tmp_path)))
    past = PastGeneration(2, Lever.HARNESS, made.title, "rejected", "worse", Score(0.1, (0.0, 0.2), 10), made.notes)
    other = ("edit_file", {"path": f"harness/{ENTRY}", "old": "0.2", "new": "0.3"})
    bench = Bench([said("", EDIT, SUBMITTED), said("", other, SUBMITTED)])
    again = propose(tmp_path, bench, later(tmp_path / "evidence", n=3, history=(past,)))
    assert "proposed before: generation 2, rejected (worse)" in bench.answers()[1]
    assert "0.3" in again.files[ENTRY]


def test_a_candidate_that_could_not_be_scored_may_be_proposed_again(tmp_path):
    made = propose(tmp_path, Bench([said("", EDIT, SUBMITTED)]), later(evidence(tmp_path)))
    past = PastGeneration(2, Lever.HARNESS, made.title, "unscored", "3 of 9 rate_limited", None, made.notes)
    again = propose(tmp_path, Bench([said("", EDIT, SUBMITTED)]), later(tmp_path / "evidence", n=3, history=(past,)))
    assert again.files == made.files


@pytest.mark.parametrize(
    "garbage", ["", "{", "[]", '"text"', "{}", '{"title": 3}', '{"title": "t", "rationale": null}', "nonsense"]
)
def test_a_garbled_submission_is_sent_back_and_the_next_one_counts(tmp_path, garbage):
    bench = Bench([said("", EDIT, ("submit", garbage)), said("", SUBMITTED)])
    proposal = propose(tmp_path, bench, later(evidence(tmp_path)))
    assert bench.answers()[-1].startswith("error: submit: ")
    assert proposal.title == "a better rate"


def test_after_the_repairs_are_used_up_a_draft_that_parses_is_proposed_as_such(tmp_path):
    bench = Bench([said("", EDIT), said("", ("submit", "{}"))])
    proposal = propose(tmp_path, bench, later(evidence(tmp_path)), repairs=2)
    assert len(bench.sent) == 4  # one edit, two repairs, and the submission that was one too many
    assert proposal.files == {ENTRY: EDITED}
    assert "used up its repairs" in proposal.rationale
    assert "title: Field required" in proposal.rationale
    assert proposal.notes["ended"] == "repairs"


def test_turns_used_up_with_a_changed_draft_propose_it_and_say_so(tmp_path):
    bench = Bench([said("", EDIT), said("thinking")])
    proposal = propose(tmp_path, bench, later(evidence(tmp_path)), turns=3)
    assert len(bench.sent) == 3
    assert proposal.files == {ENTRY: EDITED}
    assert proposal.title == "unsubmitted draft"
    assert proposal.rationale.startswith("The model used its 3 turns without a submission")


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (said("no tools for me"), "the parent's, unchanged"),
        (said("", ("write_file", {"path": f"harness/{ENTRY}", "content": "def"})), "it does not parse"),
    ],
)
def test_turns_used_up_without_a_usable_draft_fail_in_build_with_the_reason(tmp_path, last, reason):
    proposal = propose(tmp_path, Bench([last]), later(evidence(tmp_path)), turns=3)
    assert (proposal.lever, proposal.files) == (Lever.HARNESS, {})
    assert reason in proposal.rationale
    assert proposal.usage.calls == 3


def test_an_unsubmitted_draft_that_was_proposed_before_is_not_proposed_again(tmp_path):
    made = propose(tmp_path, Bench([said("", EDIT, SUBMITTED)]), later(evidence(tmp_path)))
    past = PastGeneration(2, Lever.HARNESS, made.title, "rejected", "worse", Score(0.1, (0.0, 0.2), 10), made.notes)
    bench = Bench([said("", EDIT), said("well")])
    proposal = propose(tmp_path, bench, later(tmp_path / "evidence", n=3, history=(past,)), turns=3)
    assert proposal.files == {}
    assert "the same files were generation 2, rejected (worse)" in proposal.rationale


def test_a_silent_meta_agent_leaves_the_reference_as_the_first_harness(tmp_path):
    proposal = propose(tmp_path, Bench([said("")]), first(), turns=2)
    assert proposal.files == {ENTRY: REFERENCE}
    assert "Proposed is the reference harness as it is." in proposal.rationale


def test_the_last_turn_is_announced(tmp_path):
    bench = Bench([said("", ("list_files", {}))])
    propose(tmp_path, bench, first(), turns=3)
    assert bench.answers()[0].endswith("[Turns left: 2, trials left: 2.]")
    assert bench.answers()[1].endswith("[This is your last turn: submit now.]")


def test_plain_text_and_a_cut_message_are_answered_with_what_to_do(tmp_path):
    bench = Bench(
        [said("Well."), said("", ("write_file", '{"path": "harness/x'), finish="length"), said("", SUBMITTED)]
    )
    propose(tmp_path, bench, first())
    assert bench.sent[1][-1]["role"] == "user"
    assert "call a tool" in bench.sent[1][-1]["content"]
    assert "cut at its token limit" in bench.sent[2][-1]["content"]


def test_several_calls_in_one_message_are_carried_out_in_order(tmp_path):
    write = [("write_file", {"path": "harness/n.txt", "content": str(n)}) for n in range(3)]
    bench = Bench([said("", *write, ("read_file", {"path": "harness/n.txt"})), said("", SUBMITTED)])
    assert propose(tmp_path, bench, first()).files["n.txt"] == "2"
    assert "2" in bench.answers()[-1]


def test_of_endless_calls_the_first_are_carried_out_and_the_rest_is_named(tmp_path):
    bench = Bench([said("", *[("list_files", {})] * 5000), said("", SUBMITTED)])
    propose(tmp_path, bench, first())
    assert len(bench.answers()) == 16
    assert "Only the first 16 tool calls" in bench.answers()[-1]


def test_unknown_tools_are_answered_with_those_there_are(tmp_path):
    bench = Bench([said("", ("run bash!", {"command": "ls"})), said("", SUBMITTED)])
    propose(tmp_path, bench, first())
    assert bench.answers()[0].startswith("there is no tool run_bash_; there are: list_files, read_file")


def test_calls_without_ids_or_with_the_same_one_are_told_apart(tmp_path):
    reply = said("", ("list_files", {}), ("read_file", {"path": "evidence/task.md"}))
    for name in ("", "same"):
        calls = tuple(type(call)(name, call.name, call.arguments) for call in reply.tool_calls)
        bench = Bench([ModelReply("", calls, "tool_calls", {"content": None}, Usage()), said("", SUBMITTED)])
        propose(tmp_path, bench, first())
        assert len(bench.answers()) == 2


def test_what_the_provider_added_to_a_message_is_sent_back_to_it(tmp_path):
    reply = said("", ("list_files", {}))
    message = json.loads(json.dumps(reply.message)) | {"thinking_blocks": [{"signature": "abc"}]}
    message["tool_calls"][0]["provider_specific_fields"] = {"thought_signature": "xyz"}
    bench = Bench([ModelReply("", reply.tool_calls, "tool_calls", message, Usage()), said("", SUBMITTED)])
    propose(tmp_path, bench, first())
    assert bench.sent[1][2]["thinking_blocks"] == [{"signature": "abc"}]
    assert bench.sent[1][2]["tool_calls"][0]["provider_specific_fields"] == {"thought_signature": "xyz"}


def test_what_the_workbench_raises_ends_the_proposal(tmp_path):
    with pytest.raises(ProviderGone):
        propose(tmp_path, Bench([said("", EDIT), ProviderGone()]), later(evidence(tmp_path)))


def test_the_same_replies_make_the_same_requests_and_the_same_proposal(tmp_path):
    script = [said("a", EDIT, ("search", {"pattern": "R.TE", "regex": True})), said("", ("try_harness", {}), SUBMITTED)]
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        bench = Bench(script)
        made.append((propose(tmp_path / name, bench, later(evidence(tmp_path / name))), bench.sent))
    assert made[0] == made[1]


def test_notes_stay_short_whatever_the_model_wrote(tmp_path):
    long = dict.fromkeys(SUBMIT, "x" * 100_000)
    proposal = propose(tmp_path, Bench([said("", EDIT, ("submit", long))]), later(evidence(tmp_path)))
    assert len(json.dumps(proposal.notes)) < 2000
    assert len(proposal.title) <= 100
    assert len(proposal.rationale) < 5000


def test_titles_are_one_printable_line(tmp_path):
    odd = SUBMIT | {"title": "a\nb\x1b[31m\u202e c"}
    proposal = propose(tmp_path, Bench([said("", EDIT, ("submit", odd))]), later(evidence(tmp_path)))
    assert proposal.title == "a b[31m c"


def test_a_metric_where_lower_is_better_is_told(tmp_path):
    bench = Bench([said("", SUBMITTED)])
    propose(tmp_path, bench, first(higher_is_better=False))
    assert "a number where lower is better" in bench.sent[0][0]["content"]


def test_a_limit_of_the_provider_in_a_trial_is_shown_as_what_it_is(tmp_path):
    unfair = Trial(0.0, 4, 1.0, "4 of 4 rate_limited: slow down", {OutcomeKind.RATE_LIMITED.value: 4})
    bench = Bench([said("", EDIT, ("try_harness", {})), said("", SUBMITTED)], lambda files: unfair)
    propose(tmp_path, bench, later(evidence(tmp_path)))
    assert "failed: 4 of 4 rate_limited: slow down" in bench.answers()[-1]


def test_links_and_odd_files_of_the_evidence_are_not_followed(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("GOLD OF VAL")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "deep.txt").write_text("GOLD OF TEST")
    folder = evidence(tmp_path)
    (folder / "link.txt").symlink_to(secret)
    (folder / "harness" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "harness" / "bytes.py").write_bytes(b"X = 1  # \xff\xfe\n")
    names = ["link.txt", "../secret.txt", "harness/linked/deep.txt", "../../secret.txt", str(secret)]
    reads = [("read_file", {"path": f"evidence/{name}"}) for name in names]
    reads += [("read_file", {"path": str(secret)}), ("read_file", {"path": "harness/linked/deep.txt"})]
    asked = [("search", {"pattern": "GOLD"}), ("list_files", {}), ("read_file", {"path": "harness/bytes.py"})]
    bench = Bench([said("", *reads, *asked), said("", SUBMITTED)])
    proposal = propose(tmp_path, bench, later(folder))
    everything = json.dumps(bench.sent) + json.dumps(proposal.to_json(), default=str)
    assert "GOLD OF" not in everything
    assert all(answer.startswith("error: ") for answer in bench.answers()[: len(reads)])


def test_a_proposal_cannot_reach_the_verifier_or_the_evidence(tmp_path):
    folder = evidence(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = [
        "evidence/summary.json",
        "../tasks/toy/verifier.py",
        "harness/../verifier.py",
        "/etc/passwd",
        "verifier.py",
    ]
    bench = Bench(
        [said("", *[("write_file", {"path": place, "content": "mine"}) for place in places], EDIT), said("", SUBMITTED)]
    )
    proposal = propose(tmp_path, bench, later(folder))
    assert all(answer.startswith("error: ") for answer in bench.answers()[: len(places)])
    assert list(proposal.files) == [ENTRY]
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    after.pop(Path(tmp_path / "reference" / ENTRY))
    assert after == before
