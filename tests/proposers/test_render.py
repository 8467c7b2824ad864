import ast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sia_runner.proposers.recipe_space import program_literals, render_program

PROGRAM = '''"""Ein Programm mit Umlauten: äöü 罪."""
import math
A = 1; B: float = -0.5  # 罪, and two on one line
C = (
    "text"
)  # over three lines
def f():
    A = 7  # a local name of the same spelling
    return A + B
'''
values = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none(), st.text(max_size=30)
)


@given(values, values, values)
@example("罪\n'\"\\", -1e300, True)
def test_what_is_rendered_is_read_back_and_every_other_byte_stays(a, b, c):
    rendered = render_program(PROGRAM, {"A": a, "B": b, "C": c})
    assert program_literals(rendered, {"A", "B", "C"}) == {"A": a, "B": b, "C": c}
    changed = {"A = 1": f"A = {a!r}", "= -0.5": f"= {b!r}", '"text"': repr(c)}
    head, tail = PROGRAM.split("def f", 1)
    head = head.replace("A = 1", "\0a").replace("= -0.5", "\0b").replace('"text"', "\0c")
    for mark, new in zip(("\0a", "\0b", "\0c"), changed.values(), strict=True):
        before, _, after = head.partition(mark)
        assert rendered.startswith(before + new)
        rendered, head = rendered.removeprefix(before + new), after
    assert rendered == head + "def f" + tail


@given(st.integers(), st.sampled_from(["\n", "\r\n"]))
def test_line_ends_are_kept(value, end):
    program = f"X = 1{end}{end}A = 2{end}Y = 3{end}"
    assert render_program(program, {"A": value}) == program.replace("A = 2", f"A = {value}")


def test_rendering_the_programs_own_values_changes_nothing():
    assert render_program(PROGRAM, program_literals(PROGRAM, {"A", "B"})) == PROGRAM


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("def f():\n    A = 1\n", "A is not assigned"),
        ("A = 1\nA = 2\n", "A is assigned"),
        ("A = int('1')\n", "A .*line 1"),
        ("A += 1\n", "A is not assigned"),
        ("if True:\n    A = 1\n", "A is not assigned"),
    ],
)
def test_a_constant_that_cannot_be_set_is_named(program, fault):
    with pytest.raises(match=fault):
        render_program(program, {"A": 3})


def test_a_chained_assignment_sets_both_names_or_neither():
    assert ast.parse(render_program("A = B = 1\n", {"A": 2})).body
    assert program_literals(render_program("A = B = 1\n", {"A": 2}), {"A", "B"}) == {"A": 2, "B": 2}
