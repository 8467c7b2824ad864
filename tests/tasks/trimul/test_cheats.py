"""Kernels that cheat, each caught: in the real sandbox, through the protocol that a GPU uses too."""

import pytest
from cases import CORRECT, small
from judge import Judge, RefusedError

from sia_runner.records import OutcomeKind
from tests.tasks.trimul.conftest import VERIFIER, program

NAIVE = program("reference")
CASE = small(CORRECT[0])


@pytest.fixture
def asked(inside):
    """``asked(source, lambda judge: ...)``: what a judge of a kernel that is timed finds."""

    def ask(source, question):
        with inside.run(VERIFIER._files(source.encode()), "candidate.py", 100) as program_inside:
            judge = Judge(program_inside, "cpu", [CASE])
            try:
                return question(judge)
            finally:
                judge.close()

    return ask


def timed(judge):
    return judge.time(CASE, 5, slack=0.0)


SLOW = "import time\n" + NAIVE.replace("def custom_kernel", "def honest") + "\n\ndef custom_kernel(data):\n"
PATCHED_TIMERS = (
    SLOW
    + """    time.sleep(0.05)
    return honest(data)


real, time.perf_counter = time.perf_counter, lambda: 0.0
torch.cuda.Event = None
"""
)


def test_patched_timers_do_not_move_our_clock(asked):
    timing = asked(PATCHED_TIMERS, timed)
    assert not timing.believed
    assert timing.mean > 50_000


CACHED = NAIVE.replace("def custom_kernel", "def honest") + (
    "\nKEPT = {}\n\n\ndef custom_kernel(data):\n"
    "    return KEPT.setdefault((data[0].data_ptr(), data[0].shape), honest(data))\n"
)


def test_a_result_kept_from_the_last_call_is_wrong_for_new_data(asked):
    timing = asked(CACHED, timed)
    assert "elements differ" in timing.fault


LATER = "import threading\n" + SLOW + (
    "    out = torch.zeros_like(data[0])\n"
    "    def work():\n        time.sleep(0.3)\n        out.copy_(honest(data))\n"
    "    threading.Thread(target=work).start()\n"
    "    return out\n"
)  # fmt: skip


def test_work_left_elsewhere_is_not_there_when_the_output_is_taken(asked):
    assert "elements differ" in asked(LATER, timed).fault


PATCHED_DRIVER = "import sys, threading\n" + SLOW + (
    "    return honest(data)\n\n\n"
    "candidate = sys.modules['__main__'].Candidate\n"
    "deliver = candidate._deliver\n"
    "def late(self, made):\n"
    "    threading.Timer(0.3, deliver, (self, made)).start()\n"
    "candidate._deliver = late\n"
)  # fmt: skip


def test_nor_where_the_driver_itself_was_patched_to_say_done_too_early(asked):
    assert "elements differ" in asked(PATCHED_DRIVER, timed).fault


LAZY = NAIVE.replace("def custom_kernel", "def honest") + (
    "\n\nclass Lazy(torch.Tensor):\n    pass\n\n\ndef custom_kernel(data):\n"
    "    return torch.zeros_like(data[0]).as_subclass(Lazy)\n"
)


def test_a_tensor_that_would_be_computed_when_it_is_looked_at_is_no_tensor(asked):
    with pytest.raises(RefusedError, match="gave a Lazy"):
        asked(LAZY, timed)


REFERENCE = (
    "import sys\nimport torch\n\n\n"
    "def custom_kernel(data):\n"
    "    for name in ('formula', 'judge', 'reference', 'verifier'):\n"
    "        assert name not in sys.modules\n"
    "    from formula import trimul\n"
    "    return trimul(data)\n"
)


def test_the_judges_own_result_is_nowhere_to_be_called(asked):
    with pytest.raises(RefusedError, match="'formula'"):
        asked(REFERENCE, timed)


COARSE = NAIVE.replace("    left = torch.matmul", "    x = x.to(torch.float8_e4m3fn).float()\n    left = torch.matmul")


def test_precision_below_the_tolerance_is_wrong(asked):
    assert "elements differ" in asked(COARSE, timed).fault


CUT_SHORT = NAIVE.replace(
    "    x, mask", "    import os\n    for place in ('arena',):\n        os.truncate(place, 0)\n    x, mask"
)


def test_a_block_that_is_taken_away_is_the_kernels_own_end(judged):
    [outcome] = judged(CUT_SHORT)
    assert outcome.value == 0
    assert outcome.kind in (OutcomeKind.CRASHED, OutcomeKind.WRONG)


FORGED = NAIVE + (
    "\n\nimport json, os\nimport counting\n"
    "counting.Work.as_json = lambda self: "
    "{'operations': 1, 'moved': 20000, 'half': 1, 'tf32': 0, 'plain': 0}\n"
)


def test_forged_counts_are_not_read_at_all(judged):
    [outcome] = judged(FORGED)
    assert outcome.value == VERIFIER.UNCOUNTED
    assert "cannot be counted" in outcome.prediction


HOST = NAIVE.replace("    x, mask", "    if float(data[0].sum()) > 0:\n        pass\n    x, mask")


def test_what_is_computed_behind_the_counters_ends_the_kernel(judged):
    [outcome] = judged(HOST)
    assert outcome.kind is OutcomeKind.CRASHED
    assert "read on the host" in outcome.prediction


@pytest.mark.slow  # a program in the sandbox for each: half a minute together
@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import torch\n\n\ndef custom_kernel(data):\n    return torch.zeros_like(data[0])\n", OutcomeKind.WRONG),
        ("import torch\n\n\ndef custom_kernel(data):\n    return data[0]\n", OutcomeKind.WRONG),
        ("def custom_kernel(data):\n    return None\n", OutcomeKind.CRASHED),
        ("def other(data):\n    return None\n", OutcomeKind.CRASHED),
        ("syntax error", OutcomeKind.CRASHED),
        ("import os\nos._exit(0)\n", OutcomeKind.CRASHED),
        ("import os\nos.write(os.open('answers', os.O_WRONLY), b'[' * 100000)\n", OutcomeKind.CRASHED),
    ],
)
def test_what_is_no_kernel_earns_nothing_and_breaks_nothing(judged, source, kind):
    [outcome] = judged(source)
    assert (outcome.kind, outcome.value) == (kind, 0.0)
