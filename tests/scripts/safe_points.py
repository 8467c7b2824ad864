"""Log when the processes of a run can be cut, and when they cannot: as sitecustomize.py on PYTHONPATH, in all of them.

Lines of $SIA_SAFE_POINTS: process, kind, and seconds of the monotonic clock, which all processes share. Kinds: `token`
(a batch is asked whether its answers are still wanted), `backward` and `passed` (begin and end of a backward pass).
"""

import functools
import importlib.abc
import importlib.util
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any


def log(kind: str) -> None:
    """Append a line, with a single write."""
    stream = os.open(os.environ["SIA_SAFE_POINTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(stream, f"{os.getpid()} {kind} {time.monotonic()}\n".encode())
    os.close(stream)


def tokens(path: Path) -> list[float]:
    """Return the times of all `token` lines."""
    return sorted(at for _, kind, at in _lines(path) if kind == "token")


def passes(path: Path) -> tuple[list[float], bool]:
    """Return the seconds of the backward passes that have ended, and whether one is under way."""
    begun: dict[str, float] = {}
    seconds: list[float] = []
    for process, kind, at in _lines(path):
        if kind == "backward":
            begun[process] = at
        elif kind == "passed":
            seconds.append(at - begun.pop(process))
    return seconds, bool(begun)


def _lines(path: Path) -> list[tuple[str, str, float]]:
    lines = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    return [(process, kind, float(at)) for process, kind, at in lines]


def watch_tokens(module: Any) -> None:
    """Log between two tokens of a batch, and between two pieces of its prompts."""
    sample = module.sample_batch

    def watched(model: Any, rows: Any, *others: Any) -> Any:
        def ask(row: Any) -> bool:
            if row is rows[0]:
                log("token")
            return row.withdrawn()

        return sample(model, [replace(row, withdrawn=functools.partial(ask, row)) for row in rows], *others)

    module.sample_batch = watched


def watch_passes(module: Any) -> None:
    """Log around each backward pass of a training: the longest piece of an optimizer step that nothing can cut."""
    backward = module.Tensor.backward

    def watched(*arguments: Any, **settings: Any) -> None:
        log("backward")
        backward(*arguments, **settings)
        log("passed")

    module.Tensor.backward = watched


WATCHED = {"sia_runner.policy.sampling": watch_tokens, "sia_runner.policy.learner": watch_passes}


class Finder(importlib.abc.MetaPathFinder):
    """Changes the modules that are watched as soon as they are imported."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Find a watched module as Python does, and change it after its execution."""
        if fullname not in WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        sys.meta_path.insert(0, self)
        assert spec and spec.loader
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            WATCHED[fullname](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, Finder())
