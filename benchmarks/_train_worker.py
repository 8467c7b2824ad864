"""A trainer in a separate process, in any environment.

It reads one JSON order per line on standard input and prints one answer per line. It is imported once and waits
between its turns.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


class Laps:
    """Seconds of each optimizer step with everything around it, wall and CPU. What `look` takes is not counted."""

    def __init__(self, look: Callable[[], float] | None = None) -> None:
        self._look = look
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.seen: list[float] = []  # what `look` found after each step
        self.start()

    def start(self) -> None:
        """Set-up is over."""
        self._since = time.perf_counter(), time.process_time()

    def stepped(self, *_: Any, **__: Any) -> None:
        """One optimizer step is done."""
        moment = time.perf_counter(), time.process_time()
        self.wall.append(moment[0] - self._since[0])
        self.cpu.append(moment[1] - self._since[1])
        if self._look is not None:
            self.seen.append(self._look())
        self.start()

    def report(self, tokens: int) -> dict[str, Any]:
        """`tokens`: completion tokens of a step."""
        return {"wall": self.wall, "cpu": self.cpu, "right": self.seen, "tokens": tokens}


def chance(model: Any, prompts: list[list[int]], answers: list[int]) -> float:
    """Mean probability of the right first token. The model is left in the mode that it was in."""
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(prompts)).logits[:, -1].double()
    model.train(training)
    return float(torch.softmax(logits, -1).gather(1, torch.tensor(answers)[:, None]).mean())


def serve(orders: Mapping[str, Callable[..., Any]]) -> None:
    """Answer orders {"what": name, ...arguments} until standard input ends.

    Everything that libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        order = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = orders[order.pop("what")](**order)
        print(json.dumps(answer), file=answers, flush=True)
