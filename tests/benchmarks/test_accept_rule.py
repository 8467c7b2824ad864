"""The table of the accept rules' error rates in docs/architecture.md is what its benchmark prints."""

import importlib
import re
import sys
from math import sqrt
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("accept_rule")
    for name in ("accept_rule", "_table"):
        sys.modules.pop(name, None)


def test_the_documented_rates_are_those_of_the_rules(benchmark):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rate = r" *\| +([\d.]+)% \(\S+\)"
    rows = re.findall(rf"(?m)^\| (\d+) +\| +(\d+)%{rate}{rate}{rate}", text)
    assert [(int(n), int(share) / 100) for n, share, *_ in rows] == list(benchmark.CASES)
    simulations = 150
    for (questions, share), (*_, ladder, mcnemar, _) in zip(benchmark.CASES, rows, strict=True):
        for rule, documented in (("ladder", float(ladder) / 100), ("mcnemar", float(mcnemar) / 100)):
            measured = benchmark.accepted(rule, questions, share, 99, simulations) / simulations
            assert measured == pytest.approx(documented, abs=4 * sqrt(documented * (1 - documented) / simulations))


def test_a_useless_change_helps_as_often_as_it_harms(benchmark):
    new, old = benchmark.useless_change(20_000, 0.3, benchmark.random.Random(1))
    won, lost = (
        sum(a.value > b.value for a, b in zip(one, other, strict=True)) for one, other in ((new, old), (old, new))
    )
    assert won + lost == pytest.approx(6000, abs=260) and won == pytest.approx(lost, abs=310)
