"""Only a program that cannot reach the counters is counted."""

import pytest
from dialect import fault

from tests.tasks.trimul.conftest import program

KERNEL = "import torch\n\n\ndef custom_kernel(data):\n    {}\n    return data[0]\n"


@pytest.mark.parametrize("name", ["reference", "stacked", "fused"])
def test_the_shipped_kernels_are_counted(name):
    assert fault(program(name).encode()) == ""


@pytest.mark.parametrize(
    "line",
    [
        "import counting",
        "data.__class__",
        "().__class__.__base__.__subclasses__()",
        "torch.utils",
        "torch._C",
        "torch.compile(custom_kernel)",
        "data[0].numpy()",
        "data[0].tolist()",
        "data[0].item()",
        "data[0].data_ptr()",
        "getattr(torch, 'utils')",
        "eval('1')",
        "exec('import counting')",
        "open('/etc/passwd')",
        "globals()",
        "torch.float32 = 1",
        "torch.matmul.func = 1",
        "np.matmul(1, 2)",  # the interpreter puts its own modules among a kernel's globals
        "interpreter_builder",
        "range = 1",
        "__import__('os')",
        "'{0.__class__}'.format(data)",
        "f'{data}'",
        "global torch",
        "lambda: (yield)",
        "[x for x in data]",
        "(y := data)",
    ],
)
def test_what_could_reach_them_is_not(line):
    assert fault(KERNEL.format(line).encode()) != ""


@pytest.mark.parametrize(
    "module",
    [
        "import os\n",
        "import torch.nn.functional\n",
        "from torch import matmul\n",
        "import sys as torch\n",
        "CACHE = {}\n",
        "CACHE = []\n",
        "class Counter:\n    pass\n",
        "def f(x=[]):\n    return x\n",
        "import triton\n\n@triton.autotune\ndef f(x):\n    return x\n",
        "try:\n    import os\nexcept ImportError:\n    pass\n",
        "if True:\n    import os\n",
        "def len(x):\n    return 1\n",
        "syntax error",
        "\x00",
    ],
)
def test_nor_are_state_and_foreign_modules(module):
    assert fault(module.encode()) != ""


def test_a_kernel_keeps_nothing_but_in_memory():
    source = "import triton\n\n\n@triton.jit\ndef f(x, kept):\n    kept[0] = x\n"
    assert "an item is set" in fault(source.encode())
    assert fault(source.replace("@triton.jit\n", "").encode()) == ""


def test_the_line_is_named():
    assert fault(KERNEL.format("data[0].item()").encode()).startswith("line 5: .item")
