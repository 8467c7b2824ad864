"""The toy's benchmark: what its table says about a curve, and one short training."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("ppo_toy")


def test_the_lowest_is_counted_from_the_first_batch_at_95_percent(benchmark):
    curve = benchmark.Curve(6, (0.3, 0.2, 0.96, 0.7, 0.99, 1.0))
    assert (curve.reached, curve.lowest) == (2, 0.7)
    assert curve.cells() == ("6", "2", "0.700", "0.897", "1.000")
    assert benchmark.Curve(6, (0.3, 0.94)).cells()[1:3] == ("never", "")


@pytest.mark.slow
def test_a_training_is_measured_before_each_batch_and_at_the_end_whatever_the_rewards(benchmark):
    pytest.importorskip("torch", reason="training needs torch")
    pytest.importorskip("peft", reason="adapters are PEFT's")
    curves = [
        benchmark.train_toy(0, "ppo", 2, rewards, options={"iterations": 2}) for rewards in ((0.0, 1.0), (-100.0, 0.0))
    ]
    assert [len(curve.right) for curve in curves] == [3, 3]
    assert curves[0].right == pytest.approx(curves[1].right, abs=1e-3)
    assert curves[0].right[0] < 0.5
