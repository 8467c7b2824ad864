"""Whatever a harness prints: constant memory, a head and a tail that are safe to read, and no end that waits."""

import threading

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.sandbox.protocol import Ending
from sia_runner.sandbox.supervisor import BoundedOutput
from tests.sandbox.conftest import Box

MIB = 1 << 20


def test_short_output_is_kept_as_it_is() -> None:
    output = BoundedOutput(1000)
    output.add("one\nzwei ü 三\n".encode())
    assert output.text() == "one\nzwei ü 三\n"


def test_long_output_keeps_head_and_tail_and_counts_the_rest() -> None:
    output = BoundedOutput(10)
    output.add(b"abcdefghijklmnopqrstuvwxyz")
    assert output.text() == "abcde\n[... 16 bytes left out ...]\nvwxyz"
    assert output.total == 26


@given(st.lists(st.binary(max_size=50)), st.integers(min_value=1, max_value=64))
def test_what_is_kept_is_bounded_accounted_for_and_safe(chunks: list[bytes], limit: int) -> None:
    output = BoundedOutput(limit)
    for chunk in chunks:
        output.add(chunk)
    everything = b"".join(chunks)
    text = output.text()
    assert output.total == len(everything)
    assert len(text.encode()) <= limit + 60
    assert not set(text) & {chr(c) for c in [*range(9), *range(11, 32), 127, 0x9B, 0xFFFD]}
    if len(everything) <= limit // 2 * 2:
        assert "left out" not in text
    assert BoundedOutput.end(output, 5) is not None


def test_nul_escape_and_invalid_utf8_cannot_reach_a_terminal(box: Box) -> None:
    ran = box.run(r"import os; os.write(1, b'a\x00b\x1b[31mc\xff\xfe\xc3(d\re\r\nf\n')")
    assert ran.log == "a?b?[31mc???(d\ne\nf\n"


def test_stdout_and_stderr_are_kept_in_order(own_box: Box) -> None:
    ran = own_box.run("import sys; print(1); print(2, file=sys.stderr); print(3)")
    assert ran.log == "1\n2\n3\n"


def test_the_last_line_says_why_a_harness_failed(own_box: Box) -> None:
    ran = own_box.run("raise ValueError('no such column')")
    assert (ran.ended.ending, ran.ended.exit_code) == (Ending.EXITED, 1)
    assert ran.ended.detail == "ValueError: no such column"


@pytest.mark.parametrize(
    ("size", "source"),
    [
        (256 * MIB, "import os\nfor _ in range(256): os.write(1, b'x' * (1 << 20))"),
        (
            1024 * MIB,
            "import os\nline = (b'y' * 79 + b'\\n') * 13107 + b'z' * 16\nfor _ in range(1024): os.write(1, line)",
        ),
    ],
    ids=["256 MiB on one line", "1 GiB on many lines"],
)
def test_endless_output_takes_constant_memory(own_box: Box, size: int, source: str) -> None:
    before, peak, done = psutil.Process().memory_info().rss, [0, 0], threading.Event()

    def sample() -> None:
        me = psutil.Process()
        while not done.wait(0.05):
            supervisors = [p for p in me.children() if "sandbox.supervisor" in " ".join(_cmdline(p))]
            peak[0] = max(peak[0], me.memory_info().rss - before)
            peak[1] = max([peak[1], *(_rss(p) for p in supervisors)])

    thread = threading.Thread(target=sample)
    thread.start()
    ran = own_box.run(source, seconds=60, output_kb=64)
    done.set()
    thread.join()
    assert ran.ended.ending is Ending.EXITED and ran.ended.exit_code == 0, ran.ended
    assert ran.ended.output_bytes == size
    assert len(ran.log) < 70_000 and f"[... {size - 65536} bytes left out ...]" in ran.log
    assert peak[0] < 8 * MIB  # the runner
    assert 0 < peak[1] < 40 * MIB  # its supervisor


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0
