"""Runs a job as sia_runner.experiment.verifier_sandbox does, without a sandbox: for our own kernels on a machine
without one.

One line of standard input says what to run; how it ended goes to standard output, both as JSON. Ends with its input.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path


def main() -> None:
    job = json.loads(sys.stdin.readline())
    top = Path(job["top"])
    with (top / "log").open("wb") as log:
        where = ["--dataset_dir", str(top / "data"), "--working_dir", str(top / "work")]
        program = subprocess.Popen(
            [sys.executable, str(top / "harness" / job["entry"]), *where], stdout=log, stderr=log, cwd=top / "work"
        )
    threading.Thread(target=_end_with_input, args=(program,), daemon=True).start()
    code = program.wait()
    lines = (top / "log").read_text(errors="replace").strip().splitlines()
    sys.stdout.write(json.dumps({"ending": "exited", "exit_code": code, "detail": lines[-1] if lines and code else ""}))


def _end_with_input(program: "subprocess.Popen[bytes]") -> None:
    sys.stdin.read()
    program.kill()
    program.wait()
    os._exit(1)


if __name__ == "__main__":
    main()
