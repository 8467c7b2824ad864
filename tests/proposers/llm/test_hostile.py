"""Whatever a model writes, it gets an answer in text, within bounds, and nothing is raised."""

import json

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sia_runner.proposers import llm_workspace
from sia_runner.proposers.llm_tools import available_tools
from sia_runner.proposers.llm_workspace import Draft, ToolRefused, split_path
from sia_runner.records import Lever, ModelReply, ToolCall, Usage
from tests.proposers.llm.scripted import ENTRY, Bench, evidence, later, propose
from tests.proposers.llm.test_tools import desk

TOOLS = available_tools(first=False, trials=1, weights=True, earlier=True)
anything = st.text(st.characters(codec=None), max_size=40)  # half surrogate pairs too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(
    [
        f"harness/{ENTRY}",
        "harness",
        "harness/../../x",
        "evidence/overview.md",
        "/etc/passwd",
        "..",
        "",
        "harness/\ud800",
    ]
)
names = st.sampled_from([*TOOLS, "bash", "", "no tool \ud800"])


def arguments_of(name: str) -> st.SearchStrategy[str]:
    """Anything, or what nearly fits: the tool's own arguments, some of them left out, with values of all kinds."""
    fields = TOOLS[name].model_fields if name in TOOLS else {"path": None}
    fitting = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, st.one_of(places, anything, values)))
    full = st.fixed_dictionaries(dict.fromkeys(fields, st.one_of(places, anything)))
    return st.one_of(anything, values.map(json.dumps), fitting.map(json.dumps), full.map(json.dumps))


asked = names.flatmap(lambda name: st.tuples(st.just(name), arguments_of(name)))
calls = st.lists(st.builds(lambda i, a: ToolCall(i, *a), anything, asked), max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(TOOLS)).flatmap(lambda name: st.tuples(st.just(name), arguments_of(name))))
@example(("read_file", '{"path": "harness/\\ud800"}'))
@example(("search", '{"pattern": "x", "regex": "yes please"}'))
@example(("read_file", '{"path": "evidence/overview.md", "offset": 1e400}'))
@example(("write_file", "[" * 100_000))
@example(("write_file", '{"path":' * 5000))
@example(("read_file", '{"offset": ' + "9" * 10_000 + "}"))
@example(("submit", '{"' + "k" * 1_000_000 + '": 1}'))
def test_a_tool_answers_or_refuses_in_bounded_text(call):
    on, (name, given_arguments) = desk(), call
    try:
        answer = TOOLS[name].call(on, given_arguments.encode(errors="replace").decode())
    except ToolRefused as refused:
        answer = str(refused)
    assert len(answer.encode()) <= 2000
    assert not any(".." in name.split("/") or name.startswith("/") for name in on.draft.files)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(anything, calls, st.sampled_from(["stop", "length", "tool_calls", "?"])), max_size=4))
@example([("", [ToolCall("a", "submit", '{"x": NaN}')], "stop"), ("", [ToolCall("a", "stop", "\ud800")], "stop")])
def test_no_conversation_breaks_the_loop_or_becomes_one_that_a_provider_refuses(tmp_path_factory, replies):
    folder = tmp_path_factory.mktemp("run")
    made = [
        ModelReply(text, tuple(called), finish, {"role": "assistant", "content": text, "tool_calls": "odd"}, Usage())
        for text, called, finish in replies
    ] or [ModelReply("", (), "stop", {}, Usage())]
    bench = Bench(made)  # checks every request: JSON, each call answered once
    proposal = propose(folder, bench, later(evidence(folder)), turns=5)
    assert proposal.lever in (Lever.HARNESS, Lever.STOP)
    json.dumps(proposal.to_json()).encode()
    json.dumps(proposal.to_json(), ensure_ascii=False).encode()


@given(st.lists(st.sampled_from(["..", ".", "", "harness", "evidence", "x", "~", "harness/..", "\0"]), max_size=6))
def test_a_path_is_inside_one_of_the_two_folders_or_refused(parts):
    path = "/".join(parts)
    try:
        place, name = split_path(path)
    except ToolRefused:
        return
    assert place in ("evidence", "harness")
    assert not name.startswith("/")
    assert not {"..", ""} & set(name.split("/")) or name == ""


@given(st.lists(st.tuples(st.sampled_from(["a", "a/b", "a/b/c", "b", "a.py", "./a", "a//b"]), anything), max_size=12))
def test_what_a_draft_holds_can_be_written_as_a_folder(tmp_path_factory, writes):
    draft, folder = Draft({}, ENTRY), tmp_path_factory.mktemp("harness")
    for path, text in writes:
        try:
            draft.write(split_path(f"harness/{path}")[1], text)
        except ToolRefused:
            continue
    for name, text in draft.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")


def test_programs_made_to_break_a_parser_are_faults_and_not_crashes():
    for program in ("(" * 100_000, "-" * 1_000_000 + "1", "x = " + "[" * 5000 + "]" * 5000, "\0", "f'{" * 3000):
        assert llm_workspace.syntax_fault({"a.py": program})
    assert llm_workspace.syntax_fault({"a.py": "x = 1", "notes.txt": "def ("}) == ""
