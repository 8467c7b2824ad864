"""The kernel benchmark: refuses in one line without a GPU; its table is made by the task's own judge."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="NOT CHECKED: torch is not installed (pip install 'sia-runner[trimul]')")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "trimul.py"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARK.parent))
    try:
        spec = importlib.util.spec_from_file_location("benchmark_of_trimul", BENCHMARK)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARK.parent))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line():
    env = {**os.environ, "PYTHONPATH": str(BENCHMARK.parents[1])}
    done = subprocess.run([sys.executable, str(BENCHMARK)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("refused: no CUDA GPU here")


def test_a_kernel_is_timed_by_the_judge_and_a_wrong_one_is_called_wrong(benchmark, monkeypatch):
    """The whole way on the CPU, on one small shape; the microseconds mean nothing there."""
    monkeypatch.setattr(benchmark.JUDGE, "REPEATS", 3)
    case = benchmark.CASES.small(benchmark.CASES.CORRECT[0])
    eager = benchmark.source(benchmark.TASK / "reference" / "target_agent.py")
    zeros = "import torch\n\n\ndef custom_kernel(data):\n    return torch.zeros_like(data[0])\n"
    timings = {
        name: benchmark.measured(text, "cpu", [case], [case], flush=False)
        for name, text in {"eager": eager, "zeros": zeros}.items()
    }
    [right], [wrong] = timings.values()
    assert right.repeats == 3
    assert not right.fault
    assert "elements differ" in wrong.fault
    head, row, last = benchmark.rows(timings, [case])
    assert head[1:] == ["eager", "zeros"]
    assert row[2] == "wrong"
    assert last[1] == f"{right.mean:,.0f}"
