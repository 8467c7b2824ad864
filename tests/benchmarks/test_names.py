"""The scripts of the benchmarks: they run with their own folder first on the path."""

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
IMPORTED = {  # by the libraries that benchmarks use, some only where they are installed
    "accelerate", "datasets", "deepspeed", "kernels", "mlflow", "pandas", "peft", "tinker", "torch", "trackio",
    "transformers", "triton", "trl", "vllm", "wandb",
}  # fmt: skip


def test_no_script_has_the_name_of_a_package_that_another_one_imports():
    """TRL looks for vLLM, and took a script of that name for it."""
    assert not {file.stem for file in BENCHMARKS.glob("*.py")} & IMPORTED
