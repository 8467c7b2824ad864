"""The scripts of the benchmarks: they run with their own folder first on the path."""

from importlib.metadata import packages_distributions
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OPTIONAL = {"vllm", "tinker", "wandb", "trl", "peft", "torch", "transformers", "datasets", "accelerate", "trackio"}


def test_no_script_has_the_name_of_a_package_that_another_one_imports():
    """TRL looks for vLLM, and took benchmarks/vllm.py for it."""
    names = {file.stem for file in BENCHMARKS.glob("*.py")}
    assert not names & (OPTIONAL | set(packages_distributions()))
