"""The judge's own result, held against the definition in loops, and what it takes for equal."""

import math

import pytest

torch = pytest.importorskip("torch", reason="NOT CHECKED: torch is not installed (pip install 'sia-runner[trimul]')")

from cases import Case
from formula import EPSILON, make_input, mismatch, trimul

CASE = Case(3, 2, 5, True, "normal", hidden=4)


def normed(row, weight, bias):
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / len(row) + EPSILON)
    return [(value - mean) / deviation * w + b for value, w, b in zip(row, weight, bias, strict=True)]


def projected(row, matrix):
    return [sum(x * w for x, w in zip(row, line, strict=True)) for line in matrix]


def sigmoid(values):
    return [1 / (1 + math.exp(-value)) for value in values]


def by_hand(fields, b, i, j):
    """One position of the output, in double precision and with loops."""
    data = {name: value.tolist() for name, value in fields.items()}

    def row(i, k):
        return normed(data["input"][b][i][k], data["norm.weight"], data["norm.bias"])

    def side(name, i, k):
        gate = sigmoid(projected(row(i, k), data[f"{name}_gate.weight"]))
        value = projected(row(i, k), data[f"{name}_proj.weight"])
        return [v * g * data["mask"][b][i][k] for v, g in zip(value, gate, strict=True)]

    pairs = [(side("left", i, k), side("right", j, k)) for k in range(CASE.n)]
    summed = [sum(left[h] * right[h] for left, right in pairs) for h in range(CASE.hidden)]
    normal = normed(summed, data["to_out_norm.weight"], data["to_out_norm.bias"])
    gate = sigmoid(projected(row(i, j), data["out_gate.weight"]))
    return projected([v * g for v, g in zip(normal, gate, strict=True)], data["to_out.weight"])


def test_it_is_the_definition():
    fields = make_input(CASE, 1, "cpu")
    result = trimul(fields)
    for b, i, j in ((0, 0, 0), (1, 2, 1), (0, 1, 2)):
        assert result[b, i, j].tolist() == pytest.approx(by_hand(fields, b, i, j), abs=1e-4)


def test_inputs_follow_the_seed():
    one, same, other = (make_input(CASE, seed, "cpu") for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if name != "mask")
    assert one["mask"].dtype is torch.int64
    assert set(one["mask"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("got", "wanted", "says"),
    [
        ([1.0, 100.0], [1.03, 101.9], ""),
        ([1.0, 100.0], [1.05, 100.0], "1 of 2 elements differ"),
        ([1.0, math.nan], [1.0, 1.0], "NaN"),
        ([1.0, math.nan], [1.0, math.nan], ""),
        ([1.0, math.inf], [1.0, -math.inf], "inf"),
        ([1.0, 1e30], [1.0, math.inf], "+inf"),
        ([math.inf, 5.0], [math.inf, 1.0], "1 of 2"),
    ],
)
def test_equal_is_within_the_tolerance_with_nan_and_infinities_in_place(got, wanted, says):
    found = mismatch(torch.tensor(got), torch.tensor(wanted))
    assert (says in found) if says else found == ""
