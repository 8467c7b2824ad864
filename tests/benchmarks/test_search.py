"""The simulation of searches: the product's own code in worlds whose truth is known, and the documented figures."""

import importlib
import re
import sys
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("search")
    for name in ("search", "_search_world", "_table"):
        sys.modules.pop(name, None)


def test_a_search_is_the_same_again_and_spends_its_budget(benchmark):
    world = benchmark.World(benchmark.LANDSCAPES[0], 3)
    for way in benchmark.WAYS:
        searches = [benchmark.Simulation(world, way) for _ in range(2)]
        assert len({search.gain(12) for search in searches}) == 1
        assert 12 <= searches[0].spent < 12 + 1 + 3 * (1 + benchmark.DEV_SHARE)


def test_the_documented_gains_are_what_it_measures(benchmark):
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"(?s)Budget 8 .*?\n\n(\| way.*?)\n\n", text)
    rows = {line.split("|")[1].strip(): line for line in section.splitlines()[2:]}
    assert list(rows) == [way.name for way in benchmark.WAYS]
    plain = {name: float(re.search(r"[+-][\d.]+", line)[0]) for name, line in rows.items()}
    ways = [way for way in benchmark.WAYS if way.name in ("greedy", "islands", "width 3")]
    gains = [benchmark.gains_of(benchmark.LANDSCAPES[0], ways, 8, seed) for seed in range(40)]
    for column, way in enumerate(ways):
        measured = [row[column] - (row[0] if column else 0.0) for row in gains]
        assert fmean(measured) == pytest.approx(plain[way.name], abs=4 * stdev(measured) / 40**0.5)


def test_an_idea_helps_as_often_as_the_world_says_and_a_rewrite_is_worse_at_first(benchmark):
    world = benchmark.World(benchmark.LANDSCAPES[2], 1)
    start, better = world.true_score(benchmark.Harness()), []
    for k in range(400):
        new = world_module().propose(world, benchmark.Harness(), {unit: 0.0 for unit, *_ in world.dev}, Random(k))
        better.append(world.true_score(new) > start)
        assert not new.rewritten or world.true_score(new) < start
    assert 0.15 < fmean(better) < 0.5


def world_module():
    return importlib.import_module("_search_world")


def test_the_bandit_spends_most_on_what_gains_per_unit(benchmark):
    models = (benchmark.Model("idle", 1.0, 0.0), benchmark.Model("able", 1.0, 1.0))
    chosen = []
    for seed in range(12):
        search = benchmark.Simulation(benchmark.World(benchmark.LANDSCAPES[0], seed), benchmark.WAYS[0], models)
        search.gain(50)
        chosen += search.chosen[1:]
    assert chosen.count("able") > 1.3 * chosen.count("idle")
    assert benchmark.bandit_gains(benchmark.LANDSCAPES[0], models, 20, 1)  # in turn, bandit, each alone
