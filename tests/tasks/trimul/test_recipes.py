"""The fused kernels are a program for a GPU: Triton compiles them for one without having one, down to machine code."""

import importlib.util

import pytest

from sia_runner.proposers import recipe_space
from tests.tasks.trimul.conftest import FOLDER

SPACE = recipe_space.load_space(FOLDER / "recipes")
SHARED_OF_AN_H100 = 227 << 10  # bytes that a block of threads can have
FULL, HOPPER = "*fp32", 90
COMMON = {"norm_weight": FULL, "norm_bias": FULL, "rows": "i32", "square": "i32", "dim": "i32", "epsilon": "fp32"}


def with_constants(**wanted):
    return next(v for v in SPACE.recipes["fused"].variants() if wanted.items() <= dict(v.constants).items())


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """``compiled(variant, mask)``: both kernels of the fused recipe, by name."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))

    def compile_both(variant, mask):
        path = tmp_path / "submission.py"
        path.write_text(SPACE.program(variant).partition("\n# submission.py\n")[2])
        spec = importlib.util.spec_from_file_location("fused_for_a_gpu", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        part, kind = ("*fp16", tl.float16) if module.HALF else (FULL, tl.float32)
        types = {
            "project": COMMON | {"x": FULL, "mask": mask, "weight": part, "sides": part, "gate": part},
            "finish": COMMON | {"summed": part, "gate": part, "weight": part, "out": FULL},
        }
        constants = {"HIDDEN": 128, "ROWS": module.ROWS, "CHUNK": module.CHUNK, "KIND": kind}

        def one(name):
            kernel, given = getattr(module, name), types[name] | dict.fromkeys(constants, "constexpr")
            source = ASTSource(kernel, {argument: given[argument] for argument in kernel.arg_names}, constants)
            return triton.compile(source, target=GPUTarget("cuda", HOPPER, 32), options={"num_warps": module.WARPS})

        return {name: one(name) for name in types}

    return compile_both


@pytest.mark.parametrize(
    ("variant", "mask"),
    [
        ({"HALF": True, "ROWS": 64, "CHUNK": 32, "WARPS": 8}, "*i64"),
        ({"HALF": False, "ROWS": 64, "CHUNK": 32, "WARPS": 8}, FULL),
    ],
)
def test_they_become_machine_code_with_matrix_instructions_that_fits_an_h100(compiled, variant, mask):
    for kernel in compiled(with_constants(**variant), mask).values():
        assert kernel.asm["cubin"]
        assert "mma" in kernel.asm["ptx"]
        assert kernel.metadata.shared <= SHARED_OF_AN_H100
