"""A process started before it is needed: there when it is, and never left behind."""

import subprocess
import sys

from sia_runner.system import PrestartedProcess

ECHO = "import sys; sys.stdout.write(sys.stdin.read().upper())"


def start():
    return subprocess.Popen([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_warm_one_is_taken_and_only_once():
    standby = PrestartedProcess(start)
    standby.warm()
    standby.warm()
    first, second = standby.take(), standby.take()
    assert first.pid != second.pid
    assert first.communicate(b"a")[0] == b"A" and second.communicate(b"b")[0] == b"B"


def test_one_that_died_while_waiting_is_replaced():
    standby = PrestartedProcess(start)
    standby.warm()
    waiting = standby._waiting
    waiting.kill()
    waiting.communicate()
    replacement = standby.take()
    assert replacement is not waiting and replacement.communicate(b"x")[0] == b"X"


def test_a_dismissed_one_ends():
    standby = PrestartedProcess(start)
    standby.warm()
    waiting = standby._waiting
    standby.dismiss()
    assert waiting.returncode is not None


def test_none_outlives_a_runner_that_is_killed(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from sia_runner.sandbox.driver import _supervisors\n"
        "from sia_runner.tasks.process import _workers\n"
        "for standby in (_supervisors, _workers):\n"
        "    standby.warm()\n"
        "    print(standby._waiting.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    import psutil

    for pid in map(int, done.stdout.split()):
        try:
            psutil.Process(pid).wait(5)
        except psutil.NoSuchProcess:
            continue
        assert not psutil.pid_exists(pid)


def test_a_process_whose_other_end_is_closed_ends_at_once():
    program = "import sys, time\nfrom sia_runner.system import exit_with_parent\nexit_with_parent(sys.stdin.buffer)\n"
    child = subprocess.Popen([sys.executable, "-c", f"{program}time.sleep(60)"], stdin=subprocess.PIPE)
    child.communicate(timeout=20)
    assert child.returncode == 1
