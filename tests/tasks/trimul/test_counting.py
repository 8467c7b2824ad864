"""What is counted, by hand for operations small enough; and what a kernel cannot hide from the counters."""

import json
import subprocess
import sys

import pytest

from tests.tasks.trimul.conftest import FOLDER

# In a process of its own: the interpreter has to be asked for before Triton is imported, and its hooks stay.
HEAD = f"""\
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, {str(FOLDER)!r})
import torch, triton, triton.language as tl
from counting import Counter, hook_triton
now = None
hook_triton(lambda: now)
x = torch.rand(64, 64)
"""
KERNEL = """
@triton.jit
def copy(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, 2.0 * tl.load(x + at, mask=at < n) + tl.load(x), mask=at < n)
"""
DOT = """
@triton.jit
def dot(x, y, N: tl.constexpr, HALF: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    block = tl.load(x + at)
    block = block.to(tl.float16) if HALF else block
    tl.store(y + at, tl.dot(block, block, input_precision="tf32"))
"""
ARGUMENT = """
@triton.jit
def product(x: tl.constexpr, y, N: tl.constexpr):
    made = x.matmul(x)
    tl.store(y + tl.arange(0, N), tl.zeros((N,), tl.float32))
"""
STATE = "@triton.jit\ndef keep(kept: tl.constexpr, y):\n    kept += (1,)\n"


COUNTED = {
    "x + x; x.T.unsqueeze(0)": "operations=1, moved=32768, half=0, tf32=0, plain=4096",
    "x @ x.T": "operations=1, moved=49152, half=0, tf32=0, plain=524288",
    "x.half() @ x.half()": "operations=3, moved=73728, half=524288, tf32=0, plain=8192",
    # 100 numbers of 4 bytes each way, however many programs read the first one
    "copy[(4,)](x, torch.empty(100), 100, BLOCK=32)": "operations=1, moved=800, half=0, tf32=0",
    "dot[(1,)](x, torch.empty(64, 64), N=64, HALF=True)": "operations=1, moved=32768, half=524288, tf32=0",
    "dot[(1,)](x, torch.empty(64, 64), N=64, HALF=False)": "operations=1, moved=32768, half=0, tf32=524288",
    # torch behind a kernel's back
    "product[(1,)](x, torch.empty(64), N=64)": "operations=2, moved=33024, half=0, tf32=0, plain=524288",
    # last, since it stays
    "torch.set_float32_matmul_precision('high'); x @ x": "operations=1, moved=32768, half=0, tf32=524288, plain=0",
}
ENDED = {
    "float(x[0, 0])": "read on the host",
    "x.sum().item()": "read on the host",
    "keep[(2,)]([], x)": "not list",
}
TAIL = """
import json
found = {}
for calls in json.loads(sys.argv[1]):
    now = Counter()
    try:
        with now:
            exec(calls)
        found[calls] = str(now.work)
    except Exception as error:
        found[calls] = str(error)
    now = None
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Calls -> their counts, or what ended them."""
    folder = tmp_path_factory.mktemp("counting")
    (folder / "program.py").write_text("\n".join([HEAD, KERNEL, DOT, ARGUMENT, STATE, TAIL]))
    command = [sys.executable, "program.py", json.dumps([*ENDED, *COUNTED])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("calls", COUNTED)
def test_counts(found, calls):
    assert COUNTED[calls] in found[calls]


@pytest.mark.parametrize("calls", ENDED)
def test_what_cannot_be_counted_ends_the_kernel(found, calls):
    assert ENDED[calls] in found[calls]
