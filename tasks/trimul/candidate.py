"""The driver: it runs a submission in the sandbox and answers the judge.

Its reports are not trusted by themselves: the submission shares this process and may have changed all of it.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_SHOWN = 300  # characters of an error


class Candidate:
    """A submission on one device. `hello`: {"device": "cpu"|"cuda", "count": bool}."""

    def __init__(self, work: Path, hello: dict[str, Any]) -> None:
        if hello["device"] == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"
        import torch

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self._work, self._device, self._count = work, hello["device"], hello["count"]
        self._counter: Any = None
        if self._count:
            from counting import hook_triton

            hook_triton(lambda: self._counter)
        import submission

        self._kernel = submission.custom_kernel
        self._block: Any = None

    def map(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Map the next case into the shared block, which is opened with the first one.

        `config` is what the submission gets as such.
        """
        from arena import fields

        if self._block is None:
            self._block = self._shared(ask["bytes"])
        self._arena, self._config = fields(self._block, ask["fields"]), ask["config"]
        return {}

    def _shared(self, size: int) -> Any:
        if self._device == "cuda":
            import cuda_arena

            return cuda_arena.block(self._work, size)
        import arena

        return arena.block(self._work)

    def run(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Run the kernel once; the output is in the block when this answers."""
        del ask
        fields = {name: value for name, value in self._arena.items() if name not in ("input", "mask", "output")}
        data = (self._arena["input"], self._arena["mask"], fields, dict(self._config))
        if self._count:
            return self._counted(data)
        result, microseconds = self._timed(data)
        self._deliver(result)
        return {"us": microseconds}

    def _counted(self, data: Any) -> dict[str, Any]:
        from counting import Counter

        self._counter = Counter()
        try:
            with self._counter:
                result = self._kernel(data)
        finally:
            counter, self._counter = self._counter, None
        self._deliver(result)
        return {"work": counter.work.as_json()}

    def _timed(self, data: Any) -> tuple[Any, float]:
        """Return the output, and microseconds by CUDA events as the competition takes them (on a CPU, by the clock)."""
        import torch

        if self._device == "cpu":
            clock_start = time.perf_counter()
            result = self._kernel(data)
            return result, 1e6 * (time.perf_counter() - clock_start)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        result = self._kernel(data)
        end.record()
        torch.cuda.synchronize()
        return result, 1e3 * start.elapsed_time(end)

    def _deliver(self, result: Any) -> None:
        import torch

        output = self._arena["output"]
        if type(result) is not torch.Tensor:
            raise TypeError(f"custom_kernel gave a {type(result).__name__}, not a torch.Tensor")
        if result.shape != output.shape or result.dtype != output.dtype or result.device != output.device:
            what = f"{result.dtype} {tuple(result.shape)} on {result.device}"
            raise TypeError(
                f"custom_kernel gave {what}; expected {output.dtype} {tuple(output.shape)} on {output.device}"
            )
        output.copy_(result)
        if self._device == "cuda":
            torch.cuda.synchronize()


def _fault(error: BaseException) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {error}"[:_SHOWN]}


def main() -> None:
    """Answer the judge's requests until it closes the pipe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    work = parser.parse_args().working_dir
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    answers = os.open(work / "answers", os.O_WRONLY)
    asks = (work / "asks").open(encoding="utf-8")

    def answer(message: dict[str, Any]) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    try:
        candidate = Candidate(work, json.loads(asks.readline()))
    except BaseException as error:  # noqa: BLE001 (told to the judge, whatever it is)
        answer(_fault(error))
        return
    answer({})
    while line := asks.readline():
        ask = json.loads(line)
        try:
            answer(candidate.map(ask) if ask["do"] == "map" else candidate.run(ask))
        except Exception as error:  # noqa: BLE001
            answer(_fault(error))


if __name__ == "__main__":
    main()
